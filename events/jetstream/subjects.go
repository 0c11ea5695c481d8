package jetstream

// Subjects returns what a connection has to be allowed to publish to do all that
// a [Ledger] does, and nothing beyond: no stream is created, changed, deleted,
// restored or moved with it, none is purged but that of the uses, which retention
// shortens, and that of the snapshots, which can be made again, and no message is deleted but of the seals, whose keys are there to be
// destroyed. Beside these a connection subscribes to its own inbox only.
func Subjects() []string {
	subjects := []string{
		"ledger.>", "uses.>", "seals.>", "access.>", "presence.>", "snapshots.>",
		"$JS.API.STREAM.INFO." + StreamSeals, "$JS.API.STREAM.MSG.GET." + StreamSeals,
		"$JS.API.STREAM.MSG.DELETE." + StreamSeals,
		"$JS.API.STREAM.INFO." + StreamSnapshots, "$JS.API.STREAM.MSG.GET." + StreamSnapshots,
		"$JS.API.STREAM.PURGE." + StreamUses, "$JS.API.STREAM.PURGE." + StreamSnapshots,
	}
	for _, stream := range []string{StreamLedger, StreamUses, StreamAccess, StreamPresence} {
		subjects = append(subjects,
			"$JS.API.STREAM.INFO."+stream,
			"$JS.API.STREAM.MSG.GET."+stream,
			"$JS.API.CONSUMER.CREATE."+stream+".*",
			"$JS.API.CONSUMER.INFO."+stream+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+stream+".*",
			"$JS.API.CONSUMER.DELETE."+stream+".*",
		)
	}
	return subjects
}
