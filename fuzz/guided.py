"""One target under atheris, guided by coverage: `python -m fuzz.guided TARGET SECONDS`.

Needs atheris (the extra `fuzz`).  What it finds is written into
`fuzz/corpus/TARGET/`; the process then ends with a status other than 0.
"""

from __future__ import annotations

import sys
import tempfile


def main(name: str, seconds: str) -> None:
    """Fuzz target *name* for *seconds*; ends the process."""
    import atheris  # noqa: PLC0415 - an optional library

    with atheris.instrument_imports(include=["trunnel", "h2", "hpack", "hyperframe"]):
        from fuzz.targets import CORPUS, TARGETS  # noqa: PLC0415 - instrumented as it is imported

    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    # libFuzzer adds what it finds interesting to the first folder and reads the others.
    with tempfile.TemporaryDirectory() as grown:
        flags = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/found-", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *flags, grown, str(folder)], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
