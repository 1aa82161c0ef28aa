"""The programme: compose a configuration, build a run, train, record, report."""
