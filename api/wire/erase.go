package wire

// Erase erases a data subject.
type Erase struct {
	Subject string `json:"subject" maxLength:"63" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" example:"user-4711" doc:"The data_subject of keys; of reasons that somebody gave for other changes, the id of the management key."`
	Reason  string `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// Erased is an erasure that is done.
type Erased struct {
	Subject       string `json:"subject" example:"user-4711"`
	KeysDestroyed int    `json:"keys_destroyed" doc:"How many keys that sealed texts are destroyed by this request; 0 when they were before."`
	Position      string `json:"position" doc:"Position of the event that tells of it."`
}
