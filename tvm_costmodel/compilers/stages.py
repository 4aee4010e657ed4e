"""The stages of a build: timed, and named in what goes wrong in them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tvm_costmodel.errors import BuildError


@contextlib.contextmanager
def build_stage(
    name: str,
    seconds: dict[str, float],
    remedy: str = "try another layout or fuse=False, or report the network",
) -> Iterator[None]:
    """Times a stage of a build and names it in whatever error it raises.

    Raises:
        BuildError: Something inside failed.
    """
    start = time.perf_counter()
    try:
        yield
    except BuildError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[-1][:300] if lines else ""
        raise BuildError(
            f"build failed in stage {name!r}: {type(error).__name__}: {text}; {remedy}"
        ) from error
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
