"""A Debian archive in a folder, and an apt that knows of nothing else: for tests without a network."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest


class Archive:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = folder / "pool"
        self.pool.mkdir(parents=True)
        self._stanzas: dict[str, str] = {}
        self._list()

    def add(self, name: str, version: str, files: dict[str, bytes] | None = None, depends: str = "") -> Path:
        """Build a package of these files and list it; returns the .deb."""
        root = self.folder / "build" / f"{name}_{version}"
        for path, content in (files or {}).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a test <t@example.org>\n"
        )
        if depends:
            control += f"Depends: {depends}\n"
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(control + "Description: for a test\n")
        deb = self.pool / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "-b", "-Znone", root, deb], check=True, capture_output=True)
        content = deb.read_bytes()
        self._stanzas[f"{name} {version}"] = (
            f"{control}Filename: pool/{deb.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\nDescription: for a test\n"
        )
        self._list()
        return deb

    def drop(self, name: str, version: str) -> None:
        """As a mirror does with an old version: unlisted, and gone."""
        del self._stanzas[f"{name} {version}"]
        (self.pool / f"{name}_{version}_all.deb").unlink()
        self._list()

    def _list(self) -> None:
        (self.folder / "Packages").write_text("\n".join(self._stanzas.values()))


def only_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive that is apt's only source; the "system's" lists are empty, as on a bare machine."""
    archive = Archive(tmp_path / "archive")
    etc = tmp_path / "etc"
    for folder in (etc, etc / "empty", tmp_path / "state/lists/partial", tmp_path / "cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (etc / "sources.list").write_text(f"deb [trusted=yes] file:{archive.folder} ./\n")
    (etc / "status").write_text("")
    (etc / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{etc}/sources.list";\n'
        f'Dir::Etc::sourceparts "{etc}/empty";\n'
        f'Dir::Etc::preferencesparts "{etc}/empty";\n'
        f'Dir::State "{tmp_path}/state";\n'
        f'Dir::State::Status "{etc}/status";\n'
        f'Dir::Cache "{tmp_path}/cache";\n'
        'APT::Sandbox::User "root";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(etc / "apt.conf"))
    return archive


def system_update() -> None:
    """What an administrator's ``apt-get update`` does for the system's own lists."""
    subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
