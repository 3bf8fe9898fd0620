"""Download the paper's data: `python -m data.download lsun bedroom` or `python -m data.download hwdb1.0`.

Downloads with curl; run the command again to continue an interrupted download. Neither source publishes
checksums: lengths and the CRCs in the zip files are checked.
"""

import contextlib
import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zipfile import ZipFile, is_zipfile

from data import DataError, make_parser, one_line_errors
from data.runs import lock_file, not_empty

LSUN = "http://dl.yf.io/lsun/scenes"
HWDB = "http://www.nlpr.ia.ac.cn/databases/Download/Offline/CharData"
HWDB_ZIPS = ("Gnt1.0TrainPart1.zip", "Gnt1.0TrainPart2.zip", "Gnt1.0TrainPart3.zip", "Gnt1.0Test.zip")
PAUSES = (1, 3, 10, 30, 60, 120)  # seconds before the next try while nothing new arrives; then we give up
AGAIN = "what has arrived is kept, run the same command again to continue"
DELETE = "delete it and run the same command again"
WRITE_ERROR, NO_RANGES = 23, 33  # exit codes of curl; the latter: the server cannot continue a download


# ---------------------------------------------------------------- transfer
def ask_length(url: str) -> int | None:
    """How many bytes the server says the file has; None if it does not say, or cannot be reached now.

    DataError if it has no such file, or a web page in its place.
    """
    try:
        with urlopen(Request(url, method="HEAD"), timeout=60) as response:
            if response.headers.get_content_type() == "text/html":  # a login page or an error page
                raise DataError(f"{url} gave a web page instead of a zip file; {AGAIN}")
            length = int(response.headers["Content-Length"] or 0)
            return length if length > 0 else None
    except HTTPError as error:
        error.close()
        if error.code in (401, 403, 404, 410):
            raise DataError(f"the server answers {error.code} ({error.reason}) to {url}") from None
    except (OSError, HTTPException, ValueError):
        pass  # the transfer will tell
    return None


def transfer(url: str, part: Path, pauses: tuple) -> None:
    """Completes `part` with curl, and tries again as long as new bytes arrive."""
    if not shutil.which("curl"):
        if size_of(part):
            raise DataError(f"only curl can continue {part}: install it, or delete the file to start again")
        print("curl not found: downloading without it; if that breaks off, it has to start over", flush=True)
        transfer_from_start(url, part)
        return
    command = ["curl", "--fail", "--location", "--continue-at", "-", "--output", str(part), url]
    command += ["--connect-timeout", "60", "--speed-time", "60", "--write-out", "%{errormsg}"]
    if not sys.stderr.isatty():
        command.append("--silent")
    best, tries = size_of(part), 0
    while True:
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if answer.returncode == 0:
            return
        problem = answer.stdout or f"curl ended with code {answer.returncode}"
        if answer.returncode == WRITE_ERROR:
            raise DataError(f"{part} cannot be written ({problem}); {AGAIN}")
        if answer.returncode == NO_RANGES:
            raise DataError(
                f"{url}: {problem}; the same command tries again, or starts over if you delete {part}"
            )
        if size_of(part) > best:
            best, tries = size_of(part), 0
        tries += 1
        if tries > len(pauses):
            raise DataError(f"{url}: {problem}; gave up after {tries} tries; {AGAIN}")
        print(f"{problem}, trying again", flush=True)
        time.sleep(pauses[tries - 1])


def transfer_from_start(url: str, part: Path) -> None:
    try:
        with urlopen(url, timeout=60) as response, open(part, "wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
            if response.length:
                raise OSError(f"the last {response.length:,} bytes have not arrived")
    except (OSError, HTTPException) as error:
        os.truncate(part, 0)  # only curl could continue it
        raise DataError(f"{url} -> {part}: {error}; run the same command again") from error


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def fetch_lmdb(url: str, folder: Path, pauses: tuple = PAUSES) -> None:
    """The data.mdb in the zip file at url -> folder/data.mdb; nothing to do if that exists.

    It gets its name when it is complete. If the user has put the zip file beside the folder, it is used.
    """
    part, user_zip = Path(f"{folder}.part"), Path(f"{folder}.zip")
    data = folder / "data.mdb"
    if data.exists() and not part.exists():
        return
    with lock_part(part):
        if data.exists():
            pass  # another process was faster, or was killed just before it removed the part
        elif user_zip.exists():
            print(f"{user_zip} -> {folder}", flush=True)
            unpack_data(user_zip, folder)
        else:
            print(f"{url} -> {folder}", flush=True)
            download(url, part, pauses, copies=2)  # the zip file and what comes out of it
            unpack_data(part, folder)
        part.unlink(missing_ok=True)


def fetch_zip(url: str, path: Path, pauses: tuple = PAUSES) -> None:
    """The zip file at url -> path, which gets its name when it is complete; nothing to do if it exists."""
    part = Path(f"{path}.part")
    if path.exists() and not part.exists():
        return
    with lock_part(part):
        if path.exists():
            part.unlink(missing_ok=True)
            return
        print(f"{url} -> {path}", flush=True)
        download(url, part, pauses, copies=1)
        check_crcs(part)
        part.rename(path)


def download(url: str, part: Path, pauses: tuple, copies: int) -> None:
    """All of the file at url -> `part`, which may hold a beginning of it.

    copies: how many times the file must fit on the disk. DataError if it does not, or if not all arrives.
    """
    length = ask_length(url)
    if length is not None and size_of(part) > length:  # it is not the beginning of this file
        os.truncate(part, 0)  # not unlink: it is locked
    complete = is_zipfile(part) if length is None else size_of(part) == length
    if not complete:
        need = copies * (length or 0) - size_of(part)
        if need > shutil.disk_usage(part.parent).free:
            raise DataError(f"{part.parent} lacks the {need / 1e6:,.0f} MB of space still needed; {AGAIN}")
        transfer(url, part, pauses)
    if length and size_of(part) != length:
        raise DataError(f"{url}: {size_of(part):,} of {length:,} bytes have arrived; {AGAIN}")


@contextlib.contextmanager
def lock_part(part: Path) -> Iterator[None]:
    """Keeps a second download from appending to the same part. DataError if there is one."""
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        file = open(part, "ab")
    except OSError as error:
        raise DataError(f"{part} cannot be written ({error.strerror})") from error
    with file:
        lock_file(file, "data.download")
        try:
            yield
        finally:
            if not size_of(part):
                part.unlink(missing_ok=True)


# ---------------------------------------------------------------- zip files
@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[ZipFile]:
    """A zip file whose members have been checked. Whatever is wrong with it becomes a DataError."""
    try:
        with open(path, "rb") as file:
            is_web_page = file.read(1) == b"<"
        if is_web_page:
            raise DataError(f"{path} is a web page, not a zip file; {DELETE}")
        with ZipFile(path) as archive:
            check_members(path, archive)
            yield archive
    except (DataError, MemoryError, NameError):  # the last two: too little memory, a mistake in this code
        raise
    except Exception as error:  # zipfile fails on a bad file in a dozen ways, EINVAL from a seek is one
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise DataError(f"{path} cannot be unpacked ({error.strerror}); {AGAIN}") from error
        raise DataError(f"{path} is damaged ({error}); {DELETE}") from None


def check_members(path: Path, archive: ZipFile) -> None:
    for info in archive.infolist():
        if info.filename.endswith(".alz"):
            print(f"{path} holds {info.filename!r}, an ALZip archive: unpack that with the program unalz")
    if sum(info.file_size for info in archive.infolist()) > 20 * path.stat().st_size + 2**20:
        raise DataError(f"{path} is refused: it would unpack to more than 20 times its size")


def check_crcs(path: Path) -> None:
    """Reads the whole zip file at path. DataError if it is damaged."""
    with open_zip(path) as archive:
        damaged = archive.testzip()
        if damaged:
            raise DataError(f"{path} is damaged (wrong CRC of {damaged!r}); {DELETE}")


def unpack_data(path: Path, folder: Path) -> None:
    """The data.mdb in the zip file at path -> folder/data.mdb, which gets its name when it is complete."""
    with open_zip(path) as archive:
        found = [info for info in archive.infolist() if Path(info.filename).name == "data.mdb"]
        if len(found) != 1:
            raise DataError(f"{path} is refused: it holds {len(found)} files data.mdb instead of one")
        folder.mkdir(exist_ok=True)
        unpacked = folder / "data.mdb.part"
        try:
            with archive.open(found[0]) as source, open(unpacked, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)  # checks the CRC as it goes
                file.flush()
                os.fsync(file.fileno())
            unpacked.rename(folder / "data.mdb")
        finally:
            unpacked.unlink(missing_ok=True)  # after the rename it is no longer there


# ---------------------------------------------------------------- command line
def main(argv: list[str] | None = None, lsun: str = LSUN, hwdb: str = HWDB, pauses: tuple = PAUSES) -> None:
    """The command line; `lsun` and `hwdb` are the addresses of the folders that hold the zip files."""
    parser = make_parser("data.download", "Download the paper's data.")
    parser.add_argument("dataset", choices=("lsun", "hwdb1.0"))
    parser.add_argument("category", nargs="?", help="of LSUN: bedroom, kitchen, church_outdoor, ...")
    parser.add_argument("--split", choices=("train", "val"), help="of LSUN; unset: train")
    parser.add_argument("--out", type=not_empty, help="folder; unset: the dataset's name")
    args = parser.parse_args(argv)
    out = Path(args.out or args.dataset)
    if args.dataset == "hwdb1.0" and not args.category and not args.split:
        fetch = fetch_zip
        wanted = {out / name: f"{hwdb}/{name}" for name in HWDB_ZIPS}
        command = f"lsgan_cond_chars.py --data {shlex.quote(str(out))}"
    elif args.dataset == "lsun" and re.fullmatch("[a-z_]+", args.category or ""):
        fetch = fetch_lmdb
        target = out / f"{args.category}_{args.split or 'train'}_lmdb"
        wanted = {target: f"{lsun}/{target.name}.zip"}
        command = f"lsgan_scenes.py --data {shlex.quote(str(target).removesuffix('_train_lmdb'))}"
    else:
        parser.error("give hwdb1.0 alone, or lsun and a category such as bedroom")
    with one_line_errors("data.download", AGAIN):
        for target, url in wanted.items():
            fetch(url, target, pauses)
    print(f"complete; next: python {command}")


if __name__ == "__main__":
    main()
