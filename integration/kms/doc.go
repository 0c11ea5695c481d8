// Package kms tests provider keys whose key-encryption key is in a hardware security
// module and never leaves it: keyledger, the plugin of tools/pkcs11kms on a socket
// beside it, and a token of SoftHSM. It holds tests alone.
package kms
