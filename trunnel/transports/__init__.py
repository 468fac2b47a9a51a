"""Kinds of carrier behind one interface (`base`): `memory`, `h2`; see `wire/PROTOCOL.md`."""
