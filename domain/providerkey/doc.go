// Package providerkey decides over provider keys: the keys for AI providers that an
// organization brings, one for each provider. It sees their secrets as the ledger
// holds them, which is sealed; what travels in clear is a [Secret], and prints as
// nothing.
package providerkey
