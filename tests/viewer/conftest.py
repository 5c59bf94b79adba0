"""One finished run that tests only read."""

from pathlib import Path

import pytest

from drawn_runs import drawn_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_run(tmp_path_factory.mktemp("runs") / "finished")
