"""Download the paper's data: `python -m data.download lsun bedroom` or `python -m data.download hwdb1.0`.

What broke off continues when it runs again. Neither source publishes checksums: lengths and CRCs are checked.
"""

import errno
import json
import os
import re
import shlex
import shutil
import stat
import time
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen
from zipfile import ZipFile

from tqdm import tqdm

from data import DataError, make_parser, one_line_errors

LSUN = "http://dl.yf.io/lsun/scenes"
HWDB = "http://www.nlpr.ia.ac.cn/databases/Download/Offline/CharData"
HWDB_ZIPS = ("Gnt1.0TrainPart1.zip", "Gnt1.0TrainPart2.zip", "Gnt1.0TrainPart3.zip", "Gnt1.0Test.zip")
PAUSES = (1, 3, 10, 30, 60, 120)  # seconds before the next try while nothing new arrives; then we give up
AGAIN = "what has arrived is kept, run the same command again to continue"


def receive(url: str, part: Path, copies: int) -> None:
    """One try to append to `part` what it lacks; OSError or HTTPException if it is not whole afterwards."""
    notes = Path(f"{part}.json")  # what the server said of the file that this is a part of
    known = json.loads(notes.read_text()) if part.exists() and notes.exists() else {}
    size, length = part.stat().st_size if known.get("length") else 0, known.get("length")
    if size and size == length:
        return
    headers = {"Range": f"bytes={size}-"} if size else {}
    if size and known["tag"]:
        headers["If-Range"] = known["tag"]  # so that a changed file comes whole (200), not as a piece (206)
    with urlopen(Request(url, headers=headers), timeout=60) as response:
        if response.headers.get_content_type() == "text/html":  # a login page or an apology, never our file
            raise DataError(f"{url} gave a web page instead of a zip file; {AGAIN}")
        tag = response.headers["Last-Modified"] or response.headers["ETag"]
        if size and response.status == 206:
            piece = re.fullmatch(rf"bytes {size}-\d+/{length}", response.headers["Content-Range"] or "")
            if not piece or tag != known["tag"]:
                part.unlink()
                raise ConnectionError("the file on the server has changed, starting over")
        else:  # the first try, a changed file, or a server that does not know ranges
            size, length = 0, response.length
        if (need := copies * (length or 0) - size) > shutil.disk_usage(part.parent).free:
            raise DataError(f"{part.parent} lacks the {need / 1e6:,.0f} MB of space still needed; {AGAIN}")
        bar = tqdm.wrapattr(response, "read", total=length, initial=size, disable=None)
        with open(part, "ab" if size else "wb") as file, bar as body:
            notes.write_text(json.dumps({"length": length, "tag": tag}))
            shutil.copyfileobj(body, file, 1 << 16)
            os.fsync(file.fileno())
    if length not in (None, part.stat().st_size):
        raise ConnectionError(f"{part.stat().st_size:,} of {length:,} bytes have arrived")


def check(path: Path, folder: Path | None) -> None:
    """Check names, sizes and CRCs in a zip file. With `folder`, its data.mdb and nothing else goes there."""
    try:
        with ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.orig_filename.replace("\\", "/")
                if stat.S_ISLNK(info.external_attr >> 16) or re.search(r"^/|:|(^|/)\.\.(/|$)", name):
                    raise DataError(f"{path} is refused: {name!r} in it leads out of its folder")
                if name.endswith(".alz"):
                    print(f"{path} holds {name!r}, an ALZip archive: unpack that with the program unalz")
            if sum(info.file_size for info in archive.infolist()) > 20 * path.stat().st_size + 2**20:
                raise DataError(f"{path} is refused: more than 20-fold packed, photos and scans never are")
            if folder:
                found = [info for info in archive.infolist() if info.filename.endswith("/data.mdb")]
                if len(found) != 1:
                    raise DataError(f"{path} is refused: it holds {len(found)} files data.mdb instead of one")
                folder.mkdir(exist_ok=True)
                with archive.open(found[0]) as source, open(folder / "data.mdb", "wb") as file:
                    shutil.copyfileobj(source, file)  # checks the CRC as it goes
                    os.fsync(file.fileno())
            elif bad := archive.testzip():
                raise ValueError(f"wrong CRC of {bad!r}")
    except Exception as error:  # zipfile fails on a bad file in a dozen ways, EINVAL from a seek is one
        if isinstance(error, DataError) or getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise
        raise DataError(f"{path} is damaged ({error}); delete it and run the same command again") from None


def fetch(url: str, target: Path, pauses: tuple = PAUSES) -> None:
    """The zip file at url -> `target`, or if that is not called .zip: a folder with the zip's data.mdb."""
    part, best, tries = Path(f"{target}.part"), 0, 0
    folder = None if target.suffix == ".zip" else Path(f"{target}.unpacked")
    if folder and (own := Path(f"{target}.zip")).exists():  # which the user got in another way
        print(f"{own} -> {target}", flush=True)
        check(own, folder)
        folder.rename(target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"{url} -> {target}", flush=True)
    while True:
        try:
            receive(url, part, copies=2 if folder else 1)  # LSUN: the zip and what comes out of it
            break
        except (OSError, HTTPException) as error:
            if code := getattr(error, "code", None):
                error.close()
            if code in (401, 403, 404, 410):
                raise DataError(f"the server answers {code} ({error.reason}) to {url}") from None
            size = part.stat().st_size if part.exists() else 0
            best, tries = max(best, size), 1 if size > best else tries + 1
            if tries > len(pauses):
                raise DataError(f"{url}: {error}; given up after {tries} tries; {AGAIN}") from None
            if code == 416:  # the file has become shorter than our part
                part.unlink()
            print(f"{error}, trying again", flush=True)
            time.sleep(pauses[tries - 1])
    check(part, folder)
    (folder or part).rename(target)
    part.unlink(missing_ok=True)
    Path(f"{part}.json").unlink()


def main(argv: list[str] | None = None, lsun: str = LSUN, hwdb: str = HWDB, pauses: tuple = PAUSES) -> None:
    """The command line; `lsun` and `hwdb` are the addresses of the folders that hold the zip files."""
    parser = make_parser("data.download", __doc__)
    parser.add_argument("dataset", choices=("lsun", "hwdb1.0"))
    parser.add_argument("category", nargs="?", help="of LSUN: bedroom, kitchen, church_outdoor, ...")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="of LSUN")
    parser.add_argument("--out", help="folder; unset: the dataset's name")
    args = parser.parse_args(argv)
    out = Path(args.out or args.dataset)
    if args.dataset == "hwdb1.0" and not args.category:
        wanted = {out / name: f"{hwdb}/{name}" for name in HWDB_ZIPS}
        command = f"lsgan_cond_chars.py --data {shlex.quote(str(out))}"
    elif args.dataset == "lsun" and re.fullmatch("[a-z_]+", args.category or ""):
        target = out / f"{args.category}_{args.split}_lmdb"
        wanted = {target: f"{lsun}/{target.name}.zip"}
        command = f"lsgan_scenes.py --data {shlex.quote(str(target).removesuffix('_train_lmdb'))}"
    else:
        parser.error("give hwdb1.0 alone, or lsun and a category such as bedroom")
    with one_line_errors(parser, AGAIN):
        for target, url in wanted.items():
            if not target.exists():  # names are given last: what exists is complete
                fetch(url, target, pauses)
    print(f"complete; next: python {command} --gpu 0")


if __name__ == "__main__":
    main()
