package providertest

import (
	"net/http"

	"github.com/keyledger/keyledger/events"
)

// reply is how a provider answers a key of some condition. In the body {key} stands
// for the key as it is, and {masked} as the provider masks it.
type reply struct {
	result     events.ProviderResult
	status     int
	retryAfter string
	body       string
}

// replies are by each provider's documentation and by what its customers saw; what
// a provider does not tell apart is the same here. Cohere's {"valid": false} is
// what its documented check answers, and a list never.
var replies = map[events.ProviderID]map[Condition]reply{
	events.ProviderOpenAI: openAI,
	events.ProviderAnthropic: {
		Unknown:        {events.ProviderInvalid, 401, "", `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"},"request_id":"req_1"}`},
		Expired:        {events.ProviderExpiredOrRevoked, 401, "", `{"type":"error","error":{"type":"authentication_error","message":"This API key has expired."},"request_id":"req_2"}`},
		Revoked:        {events.ProviderExpiredOrRevoked, 400, "", `{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}`},
		Restricted:     {events.ProviderInsufficientPermissions, 403, "", `{"type":"error","error":{"type":"permission_error","message":"Your API key does not have permission to use the specified resource."}}`},
		RateLimited:    {events.ProviderRateLimited, 429, "17", `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your account's rate limit."}}`},
		QuotaExhausted: {events.ProviderRateLimited, 400, "", `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}`},
		Failing:        {events.ProviderUnreachable, 500, "", `{"type":"error","error":{"type":"api_error","message":"Internal server error"}}`},
		Overloaded:     {events.ProviderUnreachable, 529, "", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`},
	},
	events.ProviderGoogle: {
		Unknown:         {events.ProviderInvalid, 400, "", google("400", "INVALID_ARGUMENT", "API_KEY_INVALID", "API key not valid. Please pass a valid API key.")},
		Expired:         {events.ProviderExpiredOrRevoked, 400, "", google("400", "INVALID_ARGUMENT", "API_KEY_INVALID", "API key expired. Please renew the API key.")},
		Revoked:         {events.ProviderExpiredOrRevoked, 403, "", `{"error":{"code":403,"message":"Your API key was reported as leaked. Please use another API key.","status":"PERMISSION_DENIED"}}`},
		Suspended:       {events.ProviderExpiredOrRevoked, 403, "", google("403", "PERMISSION_DENIED", "CONSUMER_SUSPENDED", "Permission denied: Consumer 'api_key:{key}' has been suspended.")},
		Restricted:      {events.ProviderInsufficientPermissions, 403, "", `{"error":{"code":403,"message":"The caller does not have permission","status":"PERMISSION_DENIED"}}`},
		OtherAddress:    {events.ProviderInsufficientPermissions, 403, "", google("403", "PERMISSION_DENIED", "API_KEY_IP_ADDRESS_BLOCKED", "The provided API key has an IP address restriction.")},
		OtherRegion:     {events.ProviderInsufficientPermissions, 400, "", `{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}`},
		ServiceDisabled: {events.ProviderInsufficientPermissions, 403, "", google("403", "PERMISSION_DENIED", "SERVICE_DISABLED", "Generative Language API has not been used in project 1 before or it is disabled.")},
		RateLimited:     {events.ProviderRateLimited, 429, "", `{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"8s"}]}}`},
		QuotaExhausted:  {events.ProviderRateLimited, 403, "", google("403", "PERMISSION_DENIED", "BILLING_DISABLED", "This API method requires billing to be enabled.")},
		Failing:         {events.ProviderUnreachable, 500, "", `{"error":{"code":500,"message":"An internal error has occurred.","status":"INTERNAL"}}`},
		Overloaded:      {events.ProviderUnreachable, 503, "", `{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}`},
	},
	events.ProviderMistral: {
		Unknown:        {events.ProviderInvalid, 401, "", `{"detail":"Unauthorized"}`},
		Expired:        {events.ProviderInvalid, 401, "", `{"message":"Unauthorized","request_id":"1"}`},
		Revoked:        {events.ProviderInvalid, 401, "", `{"message":"Unauthorized","request_id":"2"}`},
		Restricted:     {events.ProviderInsufficientPermissions, 403, "", `{"object":"error","message":"Forbidden","type":"forbidden","param":null,"code":"3000"}`},
		RateLimited:    {events.ProviderRateLimited, 429, "60", `{"object":"error","message":"Requests rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}`},
		QuotaExhausted: {events.ProviderRateLimited, 402, "", `{"object":"error","message":"Payment required","type":"payment_required","param":null,"code":null}`},
		Failing:        {events.ProviderUnreachable, 500, "", `{"object":"error","message":"Service unavailable.","type":"internal_server_error","param":null,"code":"1000"}`},
		Overloaded:     {events.ProviderUnreachable, 503, "", `upstream connect error or disconnect/reset before headers`},
	},
	events.ProviderCohere: {
		Unknown:        {events.ProviderInvalid, 401, "", `{"id":"1","message":"invalid api token"}`},
		Expired:        {events.ProviderExpiredOrRevoked, 401, "", `{"id":"2","message":"Your API key has expired. Please create a production key at dashboard.cohere.com or reach out to your contact at Cohere to continue usage."}`},
		Revoked:        {events.ProviderInvalid, 200, "", `{"valid":false}`},
		Restricted:     {events.ProviderInsufficientPermissions, 403, "", `{"id":"3","message":"this operation is not allowed"}`},
		RateLimited:    {events.ProviderRateLimited, 429, "", `{"id":"4","message":"You are using a Trial key, which is limited to 40 API calls / minute."}`},
		QuotaExhausted: {events.ProviderRateLimited, 402, "", `{"id":"5","message":"Please add or update your payment method at dashboard.cohere.com."}`},
		Failing:        {events.ProviderUnreachable, 500, "", `{"id":"6","message":"internal server error"}`},
		Overloaded:     {events.ProviderUnreachable, 503, "", `{"id":"7","message":"service unavailable"}`},
	},
	events.ProviderAzureOpenAI: {
		Unknown:        {events.ProviderInvalid, 401, "", `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."}}`},
		Restricted:     {events.ProviderInsufficientPermissions, 401, "", `{"error":{"code":"PermissionDenied","message":"The principal lacks the required data action to perform this operation."}}`},
		OtherAddress:   {events.ProviderInsufficientPermissions, 403, "", `{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}`},
		RateLimited:    {events.ProviderRateLimited, 429, "7", `{"error":{"code":"429","message":"Requests to the Models_List Operation have exceeded call rate limit of your current pricing tier. Please retry after 7 seconds."}}`},
		QuotaExhausted: {events.ProviderRateLimited, 403, "", `{"error":{"code":"403","message":"Out of call volume quota for the pricing tier. Please retry after 12 days."}}`},
		Failing:        {events.ProviderUnreachable, 500, "", `{"error":{"code":"InternalServerError","message":"Internal server error"}}`},
		Overloaded:     {events.ProviderUnreachable, 503, "", `{"error":{"code":"ServiceUnavailable","message":"The service is temporarily unable to process your request."}}`},
	},
	events.ProviderOpenAICompatible: openAI,
}

// openAI's are those of all who imitate it as well.
var openAI = map[Condition]reply{
	Unknown:        {events.ProviderInvalid, 401, "", `{"error":{"message":"Incorrect API key provided: {masked}. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
	Expired:        {events.ProviderExpiredOrRevoked, 401, "", `{"error":{"message":"Provided authentication token is expired.","type":null,"param":null,"code":"token_expired"},"status":401}`},
	Revoked:        {events.ProviderExpiredOrRevoked, 401, "", `{"error":{"message":"The OpenAI account associated with this API key has been deactivated.","type":"invalid_request_error","param":null,"code":"account_deactivated"}}`},
	Restricted:     {events.ProviderInsufficientPermissions, 401, "", `{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: api.model.read. Check that you have the correct role in your organization.","type":"invalid_request_error","param":null,"code":null}}`},
	OtherAddress:   {events.ProviderInsufficientPermissions, 401, "", `{"error":{"message":"Your request IP does not match the configured IP allowlist.","type":"invalid_request_error","param":null,"code":"ip_not_authorized"}}`},
	OtherRegion:    {events.ProviderInsufficientPermissions, 403, "", `{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}`},
	RateLimited:    {events.ProviderRateLimited, 429, "20", `{"error":{"message":"Rate limit reached for requests","type":"requests","param":null,"code":"rate_limit_exceeded"}}`},
	QuotaExhausted: {events.ProviderRateLimited, 429, "", `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`},
	Failing:        {events.ProviderUnreachable, 500, "", `{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}`},
	Overloaded:     {events.ProviderUnreachable, 503, "", `{"error":{"message":"The engine is currently overloaded, please try again later","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}`},
}

func google(code, status, reason, message string) string {
	return `{"error":{"code":` + code + `,"message":"` + message + `","status":"` + status + `","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"` +
		reason + `","domain":"googleapis.com","metadata":{"service":"generativelanguage.googleapis.com"}}]}}`
}

// forbidden is how those who answer 403 for 401 do so.
var forbidden = reply{events.ProviderInvalid, http.StatusForbidden, "", `{"error":{"message":"Invalid API key","code":"invalid_api_key"}}`}
