// Package products shows, sentence by sentence, that four products' descriptions
// of their key management hold here: by the API and by the command line, on the
// real binary, with two servers on one ledger wherever it matters when something
// holds. docs/products.md tells which test shows which sentence.
//
// A test is named for its product and sentence: TestP04… is the fourth sentence of
// the project keys, O of the organization keys, S of the keys with status and
// profile, T of the personal access tokens; TestAround… is what is around them.
package products
