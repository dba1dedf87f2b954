"""What all members of a folder share: ``zoo.json``, and ``constants.safetensors`` where their networks have some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dwflow_lite.networks.constants import keys_of, packed, unpacked
from dwflow_lite.support.checks import failing_as, is_choice, is_whole
from dwflow_lite.support.files import (
    ZooFileError,
    check_format,
    is_own_format,
    json_hash,
    read_safetensors,
    write_safetensors,
)
from dwflow_lite.support.paths import written_whole
from dwflow_lite.support.versions import __version__
from dwflow_lite.zoo.shards import STORAGE

CONSTANTS, CONSTANTS_FILE = "dwflow_lite.constants/1", "constants.safetensors"
FOLDER = "dwflow_lite.folder/1"
HEADER_KEYS = {"identity", "layout", "members", "record", "size", "storage"}
LARGEST_HEADER = 1 << 28  # bytes of zoo.json
LARGEST_COUNT = 1 << 48  # of members and weights


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Write ``zoo.json``, at once or not at all."""
    path = folder / "zoo.json"
    header = dict(header) | {"format": FOLDER, "version": __version__}
    text = json.dumps(header | {"sha256": json_hash(header)}, sort_keys=True)
    with failing_as(f"cannot write {path}", OSError), written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def read_header(folder: str | Path) -> dict[str, Any]:
    """What ``zoo.json`` says.

    Raises:
        FileNotFoundError: it is not there.
        ZooFileError: it is damaged, or of a format that this version does not know.
    """
    path = Path(folder) / "zoo.json"
    if not path.is_file():
        raise FileNotFoundError(f"no zoo in {folder}: it has no zoo.json")
    damaged = f"{path} is damaged; delete the folder, or put the file back"
    with failing_as(damaged, ZooFileError):
        if path.stat().st_size > LARGEST_HEADER:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        header = json.loads(path.read_text(encoding="utf-8"))
        written_hash = header.pop("sha256", None)
        if not is_own_format(header["format"]):
            raise ValueError(f"its format is {header['format']!r}, not {FOLDER!r}")
    check_format(path, header, FOLDER)  # what another version wrote is not damaged, and not to be deleted
    with failing_as(damaged, ZooFileError):
        missing = HEADER_KEYS - set(header)
        if missing:
            raise ValueError(f"it lacks {sorted(missing)}")
        if written_hash != json_hash(header):
            raise ValueError("its hash does not match")
        _check_header(header)
    return header


def _check_header(header: Mapping[str, Any]) -> None:
    """``ValueError`` where an entry of ``zoo.json`` is not of its kind, or a number is out of all proportion."""
    kinds = {"identity": str, "layout": list, "record": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(header[name], kind)]
    wrong += [name for name in ("members", "size") if not is_whole(header[name], 1) or header[name] > LARGEST_COUNT]
    if not is_choice(header["storage"], STORAGE):
        wrong.append("storage")
    if wrong:
        raise ValueError("; ".join(f"{name} is {str(header[name])[:50]!r}" for name in wrong))


# -- constants ---------------------------------------------------------------------------------------------------


def write_constants(folder: Path, constants: Mapping[str, Tensor]) -> None:
    """Write the constants that a header names, before it; errors as of :func:`write_safetensors`."""
    write_safetensors(packed(constants), folder / CONSTANTS_FILE, {"format": CONSTANTS})


def keep_constants(folder: Path, header: Mapping[str, Any], constants: Mapping[str, Tensor]) -> None:
    """Write once more the constants that a header names, where they are lost or damaged and whoever writes has them.

    Without them no member of the folder could be read, those that are yet to be written neither.

    Raises:
        ZooFileError: they are lost, and these are others.
        OSError: they cannot be written.
    """
    try:
        read_constants(folder, header)
    except ZooFileError:
        if keys_of(constants) != header["constants"]:
            raise
        write_constants(folder, constants)


def read_constants(folder: str | Path, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """The constants that the header of a folder names; :class:`ZooFileError` unless they are as they were written."""
    keys = header.get("constants", {})
    if not keys:
        return {}
    path = Path(folder) / CONSTANTS_FILE
    with failing_as(f"{path} is damaged or not there; put the file back, or delete the folder", ZooFileError):
        tensors, _ = read_safetensors(path, CONSTANTS)
        return unpacked(tensors, keys)
