"""Download one archive of a Python package with pip's own session: `python pip_download.py NAME VERSION ARCHIVE FOLDER`.

So the user's index, proxy and certificate settings apply. `pip download` would do for wheels, but it runs the build script of
an sdist to learn its dependencies; here nothing of the package is run. pip's inner modules are no public interface: this
file is written for pip 26 and says so when they differ.
"""

import sys
from pathlib import Path


def download(name: str, version: str, archive: str, folder: Path) -> None:
    """Write the archive called `archive` of `name` `version` into `folder`. Raises LookupError where no index has it."""
    from pip._internal.commands.download import DownloadCommand
    from pip._internal.network.download import Downloader
    from pip._internal.utils.temp_dir import global_tempdir_manager

    command = DownloadCommand("download", "fetch one archive")
    # One retry: a mirror that is down should cost seconds, and `pull` goes on to the next source.
    options, _ = command.parse_args(["--no-deps", "--quiet", "--retries", "1", name])
    with command.main_context(), global_tempdir_manager():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session, ignore_requires_python=True)
        found = [candidate for candidate in finder.find_all_candidates(name) if str(candidate.version) == version]
        links = [candidate.link for candidate in found if candidate.link.filename == archive]
        if not links:
            raise LookupError(
                f"no index that pip is set up for has {archive} (of {name}, {len(found)} archives of {version})"
            )
        path, _content_type = Downloader(session, "off")(links[0], str(folder))
        Path(path).rename(folder / archive)


def main() -> None:
    name, version, archive, folder = sys.argv[1:]
    try:
        download(name, version, archive, Path(folder))
    except (ImportError, AttributeError, TypeError) as error:
        import pip

        sys.exit(f"pip {pip.__version__} is not laid out as pip 26 is: {type(error).__name__}: {error}")
    except Exception as error:  # pip's errors have no common base; the last line is what `pull` shows
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
