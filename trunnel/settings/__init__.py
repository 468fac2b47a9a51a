"""What a person decides: typed, frozen, read once at start, passed down explicitly.

- `relay`, `agent`: the two settings objects; they check what spans fields.
- `limits`: every number that protects us.
- `options`: ONE table of options.  Flags, `TRUNNEL_…` variables, TOML keys and
  the help text all come from it, so they cannot drift apart.
- `values`: the spelling of single values (durations, sizes, addresses …).
- `load`: flag, else environment, else TOML file, else default.
- `paths`: where files are looked for.

Only `load` and `paths` read the environment.  Nothing here starts anything.
"""
