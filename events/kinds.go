package events

import "strings"

// Kind names a fact with its version: `<aggregate>.<what happened>.v<n>`, and
// `tick.v<n>`, since nothing happened.
type Kind string

// TypePrefix stands before a kind in the CloudEvents type.
const TypePrefix = "keyledger."

// The kinds. They are written by hand and never change their meaning.
const (
	KindInstallationCreated       Kind = "installation.created.v1"
	KindInstallationSignerAdded   Kind = "installation.signer_added.v1"
	KindCredentialIssued          Kind = "credential.issued.v1"
	KindCredentialRevoked         Kind = "credential.revoked.v1"
	KindTick                      Kind = "tick.v1"
	KindOrganizationCreated       Kind = "organization.created.v1"
	KindOrganizationRenamed       Kind = "organization.renamed.v1"
	KindOrganizationPlanChanged   Kind = "organization.plan_changed.v1"
	KindOrganizationLimitsChanged Kind = "organization.limits_changed.v1"
	KindOrganizationPolicyChanged Kind = "organization.policy_changed.v1"
	KindOrganizationDeleted       Kind = "organization.deleted.v1"
	KindWorkspaceCreated          Kind = "workspace.created.v1"
	KindWorkspaceRenamed          Kind = "workspace.renamed.v1"
	KindWorkspaceDeleted          Kind = "workspace.deleted.v1"
	KindCatalogReplaced           Kind = "catalog.replaced.v1"
	KindProfileCreated            Kind = "profile.created.v1"
	KindProfileRenamed            Kind = "profile.renamed.v1"
	KindProfileSettingsChanged    Kind = "profile.settings_changed.v1"
	KindProfileDeleted            Kind = "profile.deleted.v1"
	KindQuotaChanged              Kind = "quota.changed.v1"
	KindKeyCreated                Kind = "key.created.v1"
	KindKeyRenamed                Kind = "key.renamed.v1"
	KindKeyPermissionsChanged     Kind = "key.permissions_changed.v1"
	KindKeyScopeChanged           Kind = "key.scope_changed.v1"
	KindKeyProfileChanged         Kind = "key.profile_changed.v1"
	KindKeyMetadataChanged        Kind = "key.metadata_changed.v1"
	KindKeyDisabled               Kind = "key.disabled.v1"
	KindKeyEnabled                Kind = "key.enabled.v1"
	KindKeyExpiryChanged          Kind = "key.expiry_changed.v1"
	KindKeyRotated                Kind = "key.rotated.v1"
	KindKeyGraceChanged           Kind = "key.grace_changed.v1"
	KindKeyExpiring               Kind = "key.expiring.v1"
	KindKeyRotationDue            Kind = "key.rotation_due.v1"
	KindKeyNewSource              Kind = "key.new_source.v1"
	KindKeyDenialsSpike           Kind = "key.denials_spike.v1"
	KindKeyExpired                Kind = "key.expired.v1"
	KindKeyRevoked                Kind = "key.revoked.v1"
	KindProviderKeyAdded          Kind = "provider_key.added.v1"
	KindProviderKeyReplaced       Kind = "provider_key.replaced.v1"
	KindProviderKeyRenamed        Kind = "provider_key.renamed.v1"
	KindProviderKeyTested         Kind = "provider_key.tested.v1"
	KindProviderKeyRemoved        Kind = "provider_key.removed.v1"
	KindProviderKeyNewSource      Kind = "provider_key.new_source.v1"
	KindProviderKeyResolvesSpike  Kind = "provider_key.resolves_spike.v1"
	KindProviderKeyFailing        Kind = "provider_key.failing.v1"
	KindSubjectErased             Kind = "subject.erased.v1"
	KindUsesDropped               Kind = "uses.dropped.v1"
)

// kindInfo is what the codec knows of a kind.
type kindInfo struct {
	kind Kind
	// bears says whether a verdict may depend on the fact. It is written into
	// every fact, so that readers who do not know the kind know that much.
	bears bool
	// aggregate is the only one that the kind may stand on.
	aggregate Aggregate
	decode    func(Document) (Event, error)
}

// kinds is the closed set. Nothing writes to it.
var kinds = map[Kind]kindInfo{
	KindInstallationCreated:       {KindInstallationCreated, false, AggregateInstallation, decodeAs[InstallationCreated]},
	KindInstallationSignerAdded:   {KindInstallationSignerAdded, false, AggregateInstallation, decodeAs[InstallationSignerAdded]},
	KindCredentialIssued:          {KindCredentialIssued, false, AggregateCredential, decodeAs[CredentialIssued]},
	KindCredentialRevoked:         {KindCredentialRevoked, false, AggregateCredential, decodeAs[CredentialRevoked]},
	KindTick:                      {KindTick, false, AggregateTick, decodeAs[Tick]},
	KindOrganizationCreated:       {KindOrganizationCreated, true, AggregateOrganization, decodeAs[OrganizationCreated]},
	KindOrganizationRenamed:       {KindOrganizationRenamed, false, AggregateOrganization, decodeAs[OrganizationRenamed]},
	KindOrganizationPlanChanged:   {KindOrganizationPlanChanged, false, AggregateOrganization, decodeAs[OrganizationPlanChanged]},
	KindOrganizationLimitsChanged: {KindOrganizationLimitsChanged, false, AggregateOrganization, decodeAs[OrganizationLimitsChanged]},
	KindOrganizationPolicyChanged: {KindOrganizationPolicyChanged, false, AggregateOrganization, decodeAs[OrganizationPolicyChanged]},
	KindOrganizationDeleted:       {KindOrganizationDeleted, true, AggregateRevoked, decodeAs[OrganizationDeleted]},
	KindWorkspaceCreated:          {KindWorkspaceCreated, true, AggregateWorkspace, decodeAs[WorkspaceCreated]},
	KindWorkspaceRenamed:          {KindWorkspaceRenamed, false, AggregateWorkspace, decodeAs[WorkspaceRenamed]},
	KindWorkspaceDeleted:          {KindWorkspaceDeleted, true, AggregateWorkspace, decodeAs[WorkspaceDeleted]},
	KindCatalogReplaced:           {KindCatalogReplaced, true, AggregateCatalog, decodeAs[CatalogReplaced]},
	KindProfileCreated:            {KindProfileCreated, true, AggregateProfile, decodeAs[ProfileCreated]},
	KindProfileRenamed:            {KindProfileRenamed, true, AggregateProfile, decodeAs[ProfileRenamed]},
	KindProfileSettingsChanged:    {KindProfileSettingsChanged, true, AggregateProfile, decodeAs[ProfileSettingsChanged]},
	KindProfileDeleted:            {KindProfileDeleted, true, AggregateProfile, decodeAs[ProfileDeleted]},
	KindQuotaChanged:              {KindQuotaChanged, false, AggregateQuota, decodeAs[QuotaChanged]},
	KindKeyCreated:                {KindKeyCreated, true, AggregateKey, decodeAs[KeyCreated]},
	KindKeyRenamed:                {KindKeyRenamed, false, AggregateKey, decodeAs[KeyRenamed]},
	KindKeyPermissionsChanged:     {KindKeyPermissionsChanged, true, AggregateKey, decodeAs[KeyPermissionsChanged]},
	KindKeyScopeChanged:           {KindKeyScopeChanged, true, AggregateKey, decodeAs[KeyScopeChanged]},
	KindKeyProfileChanged:         {KindKeyProfileChanged, true, AggregateKey, decodeAs[KeyProfileChanged]},
	KindKeyMetadataChanged:        {KindKeyMetadataChanged, false, AggregateKey, decodeAs[KeyMetadataChanged]},
	KindKeyDisabled:               {KindKeyDisabled, true, AggregateKey, decodeAs[KeyDisabled]},
	KindKeyEnabled:                {KindKeyEnabled, true, AggregateKey, decodeAs[KeyEnabled]},
	KindKeyExpiryChanged:          {KindKeyExpiryChanged, true, AggregateKey, decodeAs[KeyExpiryChanged]},
	KindKeyRotated:                {KindKeyRotated, true, AggregateKey, decodeAs[KeyRotated]},
	KindKeyGraceChanged:           {KindKeyGraceChanged, true, AggregateKey, decodeAs[KeyGraceChanged]},
	KindKeyExpiring:               {KindKeyExpiring, false, AggregateKey, decodeAs[KeyExpiring]},
	KindKeyRotationDue:            {KindKeyRotationDue, false, AggregateKey, decodeAs[KeyRotationDue]},
	KindKeyNewSource:              {KindKeyNewSource, false, AggregateKey, decodeAs[KeyNewSource]},
	KindKeyDenialsSpike:           {KindKeyDenialsSpike, false, AggregateKey, decodeAs[KeyDenialsSpike]},
	KindKeyExpired:                {KindKeyExpired, true, AggregateKey, decodeAs[KeyExpired]},
	KindKeyRevoked:                {KindKeyRevoked, true, AggregateRevoked, decodeAs[KeyRevoked]},
	KindProviderKeyAdded:          {KindProviderKeyAdded, false, AggregateProviderKey, decodeAs[ProviderKeyAdded]},
	KindProviderKeyReplaced:       {KindProviderKeyReplaced, false, AggregateProviderKey, decodeAs[ProviderKeyReplaced]},
	KindProviderKeyRenamed:        {KindProviderKeyRenamed, false, AggregateProviderKey, decodeAs[ProviderKeyRenamed]},
	KindProviderKeyTested:         {KindProviderKeyTested, false, AggregateProviderKey, decodeAs[ProviderKeyTested]},
	KindProviderKeyRemoved:        {KindProviderKeyRemoved, false, AggregateProviderKey, decodeAs[ProviderKeyRemoved]},
	KindProviderKeyNewSource:      {KindProviderKeyNewSource, false, AggregateProviderKey, decodeAs[ProviderKeyNewSource]},
	KindProviderKeyResolvesSpike:  {KindProviderKeyResolvesSpike, false, AggregateProviderKey, decodeAs[ProviderKeyResolvesSpike]},
	KindProviderKeyFailing:        {KindProviderKeyFailing, false, AggregateProviderKey, decodeAs[ProviderKeyFailing]},
	KindSubjectErased:             {KindSubjectErased, false, AggregateSubject, decodeAs[SubjectErased]},
	KindUsesDropped:               {KindUsesDropped, false, AggregateRetention, decodeAs[UsesDropped]},
}

// Kinds returns every known kind, in no order.
func Kinds() []Kind {
	out := make([]Kind, 0, len(kinds))
	for k := range kinds {
		out = append(out, k)
	}
	return out
}

// Type returns the CloudEvents type of a kind.
func (k Kind) Type() string { return TypePrefix + string(k) }

// Name returns the kind without its version, as people filter by it.
func (k Kind) Name() string {
	if i := strings.LastIndex(string(k), ".v"); i > 0 {
		return string(k)[:i]
	}
	return string(k)
}

// wellFormed reports whether a kind of another version could read so.
func (k Kind) wellFormed() bool {
	for i := range len(k) {
		if c := k[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.' {
			return false
		}
	}
	return len(k) > 0 && len(k) <= MaxKindLength
}

// Bears reports whether a fact bears on verdicts.
func Bears(e Event) bool {
	switch e := e.(type) {
	case Unknown:
		return e.Bears
	case Malformed:
		return true
	default:
		return kinds[e.Kind()].bears
	}
}

func (InstallationCreated) Kind() Kind       { return KindInstallationCreated }
func (InstallationSignerAdded) Kind() Kind   { return KindInstallationSignerAdded }
func (CredentialIssued) Kind() Kind          { return KindCredentialIssued }
func (CredentialRevoked) Kind() Kind         { return KindCredentialRevoked }
func (Tick) Kind() Kind                      { return KindTick }
func (OrganizationCreated) Kind() Kind       { return KindOrganizationCreated }
func (OrganizationRenamed) Kind() Kind       { return KindOrganizationRenamed }
func (OrganizationPlanChanged) Kind() Kind   { return KindOrganizationPlanChanged }
func (OrganizationLimitsChanged) Kind() Kind { return KindOrganizationLimitsChanged }
func (OrganizationPolicyChanged) Kind() Kind { return KindOrganizationPolicyChanged }
func (OrganizationDeleted) Kind() Kind       { return KindOrganizationDeleted }
func (WorkspaceCreated) Kind() Kind          { return KindWorkspaceCreated }
func (WorkspaceRenamed) Kind() Kind          { return KindWorkspaceRenamed }
func (WorkspaceDeleted) Kind() Kind          { return KindWorkspaceDeleted }
func (CatalogReplaced) Kind() Kind           { return KindCatalogReplaced }
func (ProfileCreated) Kind() Kind            { return KindProfileCreated }
func (ProfileRenamed) Kind() Kind            { return KindProfileRenamed }
func (ProfileSettingsChanged) Kind() Kind    { return KindProfileSettingsChanged }
func (ProfileDeleted) Kind() Kind            { return KindProfileDeleted }
func (QuotaChanged) Kind() Kind              { return KindQuotaChanged }
func (KeyCreated) Kind() Kind                { return KindKeyCreated }
func (KeyRenamed) Kind() Kind                { return KindKeyRenamed }
func (KeyPermissionsChanged) Kind() Kind     { return KindKeyPermissionsChanged }
func (KeyScopeChanged) Kind() Kind           { return KindKeyScopeChanged }
func (KeyProfileChanged) Kind() Kind         { return KindKeyProfileChanged }
func (KeyMetadataChanged) Kind() Kind        { return KindKeyMetadataChanged }
func (KeyDisabled) Kind() Kind               { return KindKeyDisabled }
func (KeyEnabled) Kind() Kind                { return KindKeyEnabled }
func (KeyExpiryChanged) Kind() Kind          { return KindKeyExpiryChanged }
func (KeyRotated) Kind() Kind                { return KindKeyRotated }
func (KeyGraceChanged) Kind() Kind           { return KindKeyGraceChanged }
func (KeyExpiring) Kind() Kind               { return KindKeyExpiring }
func (KeyRotationDue) Kind() Kind            { return KindKeyRotationDue }
func (KeyNewSource) Kind() Kind              { return KindKeyNewSource }
func (KeyDenialsSpike) Kind() Kind           { return KindKeyDenialsSpike }
func (KeyExpired) Kind() Kind                { return KindKeyExpired }
func (KeyRevoked) Kind() Kind                { return KindKeyRevoked }
func (ProviderKeyAdded) Kind() Kind          { return KindProviderKeyAdded }
func (ProviderKeyReplaced) Kind() Kind       { return KindProviderKeyReplaced }
func (ProviderKeyRenamed) Kind() Kind        { return KindProviderKeyRenamed }
func (ProviderKeyTested) Kind() Kind         { return KindProviderKeyTested }
func (ProviderKeyRemoved) Kind() Kind        { return KindProviderKeyRemoved }
func (ProviderKeyNewSource) Kind() Kind      { return KindProviderKeyNewSource }
func (ProviderKeyResolvesSpike) Kind() Kind  { return KindProviderKeyResolvesSpike }
func (ProviderKeyFailing) Kind() Kind        { return KindProviderKeyFailing }
func (SubjectErased) Kind() Kind             { return KindSubjectErased }
func (UsesDropped) Kind() Kind               { return KindUsesDropped }
func (u Unknown) Kind() Kind                 { return u.Name }
func (Malformed) Kind() Kind                 { return "malformed" }
