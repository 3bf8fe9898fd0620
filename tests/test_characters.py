"""Readers of characters: GNT files, zip files of them, a folder per class; what breaks them, in one line."""

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DataError
from data.characters import LEVEL1, File, is_test, open_characters, read_gnt, read_gnt_file, shrink

REAL = Path(os.environ.get("LSGAN_DATA", "")) / "hanzi" / "hwdb1.1_100x100"
needs_real = pytest.mark.skipif(
    "LSGAN_DATA" not in os.environ, reason="LSGAN_DATA names no folder of real data"
)


def record(character, bitmap=None, tag=None):
    bitmap = np.full((3, 2), 100, np.uint8) if bitmap is None else bitmap
    height, width = bitmap.shape
    tag = character.encode("gb18030").ljust(2, b"\0") if tag is None else tag
    return struct.pack("<I2sHH", 10 + bitmap.size, tag, width, height) + bitmap.tobytes()


def write(folder, name, *records):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(records))


def write_zip(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)


def noise(seed, width=40, height=50):  # does not compress, as a scan's grey levels hardly do
    return np.random.default_rng(seed).integers(0, 255, (height, width)).astype(np.uint8)


def writers(folder, n=10, characters="永和九年"):
    for k in range(n):
        write(folder, f"{k:03d}-f.gnt", *(record(c, noise(100 * k + i)) for i, c in enumerate(characters)))
    return folder


def as_file(data):
    return File("x.gnt", "x.gnt", len(data), lambda: io.BytesIO(data))


def raw(pictures):
    """The bytes of each picture."""
    return [picture.numpy().tobytes() for picture in pictures]


def shrunk(bitmap, fit="squash"):
    return shrink(Image.fromarray(bitmap), fit)


def fails(*args, **kwargs):
    """The one line of the DataError that open_characters ends in."""
    with pytest.raises(DataError) as caught:
        open_characters(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# the format


def test_level1_is_gb2312_rows_16_to_55():
    assert len(LEVEL1) == len(set(LEVEL1)) == 3755
    assert (
        (LEVEL1[0], LEVEL1[-1])
        == (b"\xb0\xa1".decode("gb2312"), b"\xd7\xf9".decode("gb2312"))
        == ("啊", "座")
    )
    codes = [character.encode("gb2312") for character in LEVEL1]
    assert codes == sorted(codes)


def test_a_record_is_size_tag_width_height_and_rows():
    bitmap = np.arange(6, dtype=np.uint8).reshape(2, 3)  # two rows of three
    ((name, picture),) = read_gnt(io.BytesIO(b"\x10\0\0\0\xd3\xc0\x03\0\x02\0" + bitmap.tobytes()))
    assert name == "永"
    assert np.array_equal(np.asarray(picture), bitmap)


def test_every_tag_gives_one_character_and_no_two_the_same():
    data = b"".join(record("", np.zeros((1, 1), np.uint8), bytes((i >> 8, i & 255))) for i in range(1 << 16))
    names = [name for name, _ in read_gnt(io.BytesIO(data))]
    assert len(names) == 1 << 16
    assert {len(name) for name in names} == {1}
    assert len(set(names)) == len(names)
    assert names[0x4100] == "A" and names[0xB0A1] == "啊"
    "".join(names).encode("utf-8")  # they can be printed and saved


def test_every_cut_gives_the_records_before_it_or_one_error_with_file_and_offset():
    parts = [record("永", noise(1, 3, 5)), record("A", noise(2, 1, 1)), record("和", noise(3, 7, 2))]
    data, ends = b"".join(parts), np.cumsum([0, *map(len, parts)])
    for cut in range(len(data) + 1):
        found = []
        try:
            found += [name for name, _ in read_gnt_file(as_file(data[:cut]))]
            assert cut in ends
        except DataError as error:
            assert cut not in ends
            assert str(error).startswith(f"'x.gnt': byte {ends[ends <= cut].max()}: ")
        # a generator hands over what comes before the error
        assert len([None for _ in safely(read_gnt_file(as_file(data[:cut])))]) == (ends <= cut).sum() - 1


def safely(samples):
    try:
        yield from samples
    except DataError:
        pass


@pytest.mark.parametrize(
    "header",
    [
        (10, 0, 0),
        (15, 0, 5),
        (15, 5, 0),
        (16, 2, 2),
        (14, 3, 2),
        (0, 3, 2),
        (2**32 - 1, 65535, 65535),
        (10 + 5000, 5000, 1),
    ],
)
def test_a_record_with_a_header_that_cannot_be_is_refused(header):
    size, width, height = header
    data = record("永") + struct.pack("<I2sHH", size, b"\xd3\xc0", width, height) + bytes(6000)
    with pytest.raises(DataError, match=r"'x.gnt': byte 16: .*size \d+, \d+x\d+"):
        list(read_gnt_file(as_file(data)))


def test_no_more_is_read_than_a_checked_header_says():
    class Watched(io.BytesIO):
        def read(self, n):
            assert n <= 4096 * 4096
            return super().read(n)

    for width, height in [(65535, 65535), (4097, 1), (4096, 4096)]:
        data = struct.pack("<I2sHH", (10 + width * height) % 2**32, b"\xd3\xc0", width, height)
        with pytest.raises(ValueError, match="byte 0: "):
            list(read_gnt(Watched(data)))


headers = st.tuples(
    st.integers(0, 60), st.binary(min_size=2, max_size=2), st.integers(0, 7), st.integers(0, 7)
)
almost = st.lists(
    st.one_of(
        st.builds(lambda h: struct.pack("<I2sHH", *h), headers),
        st.builds(lambda h: record("", np.zeros((h[2] + 1, h[3] + 1), np.uint8), h[1]), headers),
        st.binary(max_size=20),
    )
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(), almost))
def test_any_bytes_give_records_or_one_error_with_file_and_offset(data):
    used = 0
    try:
        for name, picture in read_gnt(io.BytesIO(data)):
            used += 10 + picture.width * picture.height
            assert len(name) == 1
        assert used == len(data)
    except ValueError:
        with pytest.raises(DataError, match=f"^'x.gnt': byte {used}: "):
            list(read_gnt_file(as_file(data)))


# what open_characters makes of it


def test_types_shapes_and_batches(tmp_path, capsys):
    dataset = open_characters(str(writers(tmp_path)))
    assert (dataset.pictures.dtype, dataset.pictures.shape) == (torch.uint8, (32, 28, 28))
    assert (dataset.labels.dtype, dataset.labels.shape) == (torch.int64, (32,))
    assert len(dataset) == 32
    pictures, labels = dataset[np.array([3, 0, 3])]
    assert (pictures.dtype, tuple(pictures.shape)) == (torch.uint8, (3, 28, 28))
    assert (labels.dtype, labels.tolist()) == (torch.int64, dataset.labels[[3, 0, 3]].tolist())
    assert torch.equal(pictures[1], dataset.pictures[0])
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "32 samples of 4 classes" in out


def test_the_class_table_follows_the_codes_and_never_the_files(tmp_path):
    first = open_characters(str(writers(tmp_path / "a", characters="永和九年")))
    second = open_characters(str(writers(tmp_path / "b", characters="年九永和")))
    assert first.class_names == second.class_names == sorted("永和九年", key=lambda c: c.encode("gbk"))
    assert [first.class_names[i] for i in first.labels[:4]] == list("永和九年")
    assert [second.class_names[i] for i in second.labels[:4]] == list("年九永和")


def test_charset_level1_drops_symbols_and_rare_characters_all_keeps_them(tmp_path):
    odd = [
        record("永"),
        record("A"),
        record("，"),
        record("亍"),
        record("镕"),
        record("", tag=b"\xff\xff"),
        record("", tag=b"AB"),
    ]
    write(tmp_path, "1.gnt", *odd)
    assert open_characters(str(tmp_path)).class_names == ["永"]
    everything = open_characters(str(tmp_path), charset="all")
    assert len(everything) == len(everything.class_names) == 7
    assert everything.class_names[:2] == ["A", "，"]
    assert {len(name) for name in everything.class_names} == {1}
    write(tmp_path / "symbols", "1.gnt", record("A"))
    assert "charset level1" in fails(str(tmp_path / "symbols"))


def test_classes_keeps_the_most_frequent_ties_by_code(tmp_path):
    a, b, c, d = sorted("永和九年", key=lambda c: c.encode("gbk"))
    write(tmp_path, "1.gnt", *map(record, (d, d, d, c, b, b, a)))
    assert open_characters(str(tmp_path), classes=1).class_names == [d]
    assert open_characters(str(tmp_path), classes=2).class_names == [b, d]
    assert open_characters(str(tmp_path), classes=3).class_names == [a, b, d]
    assert open_characters(str(tmp_path), classes=3).labels.tolist() == [2, 2, 2, 1, 1, 0]
    assert "4 classes" in fails(str(tmp_path), classes=5)
    for bad in (0, -1):
        assert "at least 1" in fails(str(tmp_path), classes=bad)


def test_a_class_with_one_sample_works(tmp_path):
    write(tmp_path, "1.gnt", record("永"))
    dataset = open_characters(str(tmp_path))
    assert (len(dataset), dataset.class_names) == (1, ["永"])
    assert "0 samples" in fails(str(tmp_path), split="test")


def test_the_last_fifth_of_the_files_by_name_is_held_out(tmp_path):
    writers(tmp_path)
    train, test = open_characters(str(tmp_path)), open_characters(str(tmp_path), split="test")
    assert (len(train), len(test)) == (32, 8)
    expected = {shrunk(noise(100 * k + i)) for k in (8, 9) for i in range(4)}
    assert set(raw(test.pictures)) == expected
    assert not expected & set(raw(train.pictures))


def test_held_out_files_without_a_class_of_the_others(tmp_path):
    write(tmp_path, "0.gnt", record("永"))
    write(tmp_path, "1-test.gnt", record("年"))
    assert "the held-out files have none of the classes" in fails(str(tmp_path), split="test")


def test_loose_files_of_equal_name_in_two_folders(tmp_path):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "1.gnt", record("永"))
    assert [len(open_characters(str(tmp_path), split=split)) for split in ("train", "test")] == [1, 1]


def test_both_splits_have_the_same_class_names(tmp_path):
    for k in range(8):
        write(tmp_path, f"{k}.gnt", record("永"), record("年"))
    write(tmp_path, "8.gnt", record("九"), record("永"))
    write(tmp_path, "9.gnt", record("年"))
    train, test = open_characters(str(tmp_path)), open_characters(str(tmp_path), split="test")
    assert train.class_names == test.class_names == sorted("永年", key=lambda c: c.encode("gbk"))
    assert [test.class_names[label] for label in test.labels] == ["永", "年"]


def test_released_test_files_are_held_out_wherever_they_are(tmp_path):
    folders = writers(tmp_path / "folders" / "Gnt1.0TrainPart1"), tmp_path / "folders" / "Gnt1.0Test"
    write(folders[1], "000-held.gnt", record("永", noise(7)))
    zips = tmp_path / "hwdb1.0"
    zips.mkdir()
    data = {file.name.replace(".", "__"): file.read_bytes() for file in folders[0].iterdir()}
    write_zip(zips / "Gnt1.0TrainPart1.zip", **data)
    write_zip(zips / "Gnt1.0Test.zip", **{"000-held__gnt": record("永", noise(7))})
    for root in (tmp_path / "folders", zips):
        assert len(open_characters(str(root))) == 40
        assert raw(open_characters(str(root), split="test").pictures) == [shrunk(noise(7))]
    assert "all files are test files" in fails(str(zips / "Gnt1.0Test.zip"))
    (tmp_path / "empty").mkdir()
    assert "nothing to train on" in fails(str(tmp_path / "empty"))


def test_zip_files_give_what_the_folder_gives(tmp_path):
    writers(tmp_path / "loose")
    data = {file.name.replace(".", "__"): file.read_bytes() for file in (tmp_path / "loose").iterdir()}
    (tmp_path / "zips").mkdir()
    names = sorted(data)
    write_zip(
        tmp_path / "zips" / "b.zip", **{name: data[name] for name in names[:5]}, readme__txt=b"a" * 10_000
    )
    write_zip(tmp_path / "zips" / "a.zip", zipfile.ZIP_STORED, **{name: data[name] for name in names[5:]})
    write_zip(tmp_path / "one.zip", **data)
    for split in ("train", "test"):
        loose, *packed = (
            open_characters(str(tmp_path / n), split=split) for n in ("loose", "zips", "one.zip")
        )
        for other in packed:
            assert torch.equal(loose.pictures, other.pictures)
            assert torch.equal(loose.labels, other.labels)
    assert sorted(os.listdir(tmp_path)) == ["loose", "one.zip", "zips"]  # nothing unpacked


def test_the_same_file_unpacked_and_in_its_zip_file_is_refused(tmp_path):
    writers(tmp_path)
    write_zip(tmp_path / "Gnt1.0Test.zip", **{"009-f__gnt": (tmp_path / "009-f.gnt").read_bytes()})
    assert "equal name" in fails(str(tmp_path))


def test_squash_is_pils_bilinear_and_pad_keeps_the_shape():
    wide = Image.fromarray(np.zeros((10, 40), np.uint8))
    assert np.frombuffer(shrink(wide, "squash"), np.uint8).max() == 0
    padded = np.frombuffer(shrink(wide, "pad"), np.uint8).reshape(28, 28)
    assert (padded[:9] == 255).all() and (padded[-9:] == 255).all() and (padded[12:16] == 0).all()
    assert np.array_equal(padded, padded[::-1])
    picture = Image.fromarray(noise(3))
    assert shrink(picture, "squash") == picture.resize((28, 28), Image.Resampling.BILINEAR).tobytes()
    for size in ((1, 1), (300, 1), (1, 300), (28, 28)):
        for fit in ("squash", "pad"):
            assert len(shrink(Image.new("L", size, 255), fit)) == 784


def test_folder_per_class(tmp_path):
    for name, n in {"永": 10, "cat": 5, "年": 1, "empty": 0}.items():
        (tmp_path / name).mkdir()
        for k in range(n):
            Image.fromarray(noise(k)).save(tmp_path / name / f"{k}.png")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "stray.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    train, test = open_characters(str(tmp_path)), open_characters(str(tmp_path), split="test")
    assert train.class_names == test.class_names == ["cat", "年", "永"]
    assert np.bincount(train.labels).tolist() == [4, 1, 8]
    assert np.bincount(test.labels).tolist() == [1, 0, 2]
    assert raw(train.pictures)[0] == shrunk(noise(0))
    assert open_characters(str(tmp_path), classes=1).class_names == ["永"]


def test_more_classes_than_folders(tmp_path):
    for name in "永年":
        (tmp_path / name).mkdir()
        Image.fromarray(noise(0)).save(tmp_path / name / "1.png")
    assert fails(str(tmp_path), classes=5).endswith(
        "2 samples of 2 classes to train on, but asked for 5 classes"
    )


def test_transparent_colour_and_palette_pictures_become_ink_on_white(tmp_path):
    (tmp_path / "永").mkdir()
    ink = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    ink.paste((0, 0, 0, 255), (10, 0, 18, 28))
    ink.save(tmp_path / "永" / "1.png")
    ink.quantize(4).save(tmp_path / "永" / "2.png")
    for picture in open_characters(str(tmp_path)).pictures:
        assert (picture[14, 14], picture[14, 2]) == (0, 255)


# what is wrong, in one line


def test_a_missing_path_says_what_was_looked_for_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = fails("hwdb1.0")
    assert str(tmp_path / "hwdb1.0") in message and "python -m data.download hwdb1.0" in message


def test_folders_without_characters_say_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert ".gnt" in fails(str(tmp_path)) and ".gnt" in fails(str(tmp_path / "a.txt"))
    write(tmp_path, "0.gnt")
    assert "0 samples" in fails(str(tmp_path))


def test_unknown_settings_are_refused(tmp_path):
    for wrong in ({"fit": "crop"}, {"charset": "big5"}, {"split": "val"}):
        assert str(*wrong.values()) in fails(str(writers(tmp_path)), **wrong)


def test_a_path_that_cannot_be_looked_at(tmp_path):
    assert "cannot be read (File name too long)" in fails("x" * 300)


def test_one_file_holds_nothing_out(tmp_path):
    write(tmp_path, "001.gnt", record("永", noise(1)))
    assert "too few files to hold any out" in fails(str(tmp_path), split="test")


@pytest.mark.parametrize(
    "place, test",
    [
        ("Gnt1.0Test.zip/1.gnt", True),
        ("HWDB1.0tst_gnt/1.gnt", True),
        ("test/1.gnt", True),
        ("HWDBTest/1.gnt", True),
        ("GNTTest.zip/1.gnt", True),
        ("HWDBTrain/1.gnt", False),
        ("latest/1.gnt", False),
        ("contest/1.gnt", False),
        ("Gnt1.0TrainPart1.zip/1.gnt", False),
    ],
)
def test_what_names_a_test_set(place, test):
    assert is_test(place) is test


def test_a_damaged_file_is_named_with_the_offset(tmp_path):
    writers(tmp_path)
    data = (tmp_path / "004-f.gnt").read_bytes()
    (tmp_path / "004-f.gnt").write_bytes(data[:-1])
    assert f"{tmp_path}/004-f.gnt': byte {3 * 2010}: " in fails(str(tmp_path))
    write_zip(tmp_path / "z.zip", **{"a\n__gnt": data[:-1]})
    assert f"byte {3 * 2010}: " in fails(str(tmp_path / "z.zip"))


def test_broken_pictures_are_left_out_counted_and_one_is_named(tmp_path, capsys):
    for name in "永年":
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.fromarray(noise(k)).save(tmp_path / name / f"{k}.png")
    data = (tmp_path / "永" / "1.png").read_bytes()
    for k, broken in enumerate((b"", data[:100], data[:-500])):
        (tmp_path / "永" / f"{k}.png").write_bytes(broken)
    train = open_characters(str(tmp_path))
    assert np.bincount(train.labels).tolist() == [4, 1]
    said = capsys.readouterr().err
    assert "3 pictures do not decode and are left out" in said and "永/0.png" in said
    for k in range(4):
        (tmp_path / "永" / f"{k}.png").write_bytes(b"text")
    assert "no picture of class 永 decodes" in fails(str(tmp_path))


@pytest.mark.parametrize("error", [NameError, MemoryError])
def test_what_is_not_a_pictures_fault_is_raised(tmp_path, monkeypatch, error):
    for i in range(5):
        (tmp_path / "永").mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / f"永/{i}.png")

    def broken(value):
        raise error

    monkeypatch.setattr("data.characters.open_picture", broken)
    with pytest.raises(error):
        open_characters(str(tmp_path))


def test_pictures_beside_gnt_files_are_passed_over_and_counted(tmp_path, capsys):
    writers(tmp_path)
    (tmp_path / "永").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "永/1.png")
    open_characters(str(tmp_path))
    assert "1 pictures are skipped, as there are .gnt files" in capsys.readouterr().err


def test_a_pipe_in_a_class_folder_is_passed_over(tmp_path):
    (tmp_path / "永").mkdir()
    Image.fromarray(noise(1)).save(tmp_path / "永" / "1.png")
    os.mkfifo(tmp_path / "永" / "2.png")
    os.mkfifo(tmp_path / "3.gnt")
    assert len(open_characters(str(tmp_path))) == 1


def test_class_folders_may_be_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(noise(1)).save(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "永").symlink_to(tmp_path / "elsewhere")
    assert open_characters(str(tmp_path / "data")).class_names == ["永"]


def test_sixteen_bits_are_scaled_and_32_bits_refused(tmp_path, capsys):
    (tmp_path / "永").mkdir()
    half = np.full((28, 28), 0x8000, np.uint16)
    Image.fromarray(half).save(tmp_path / "永" / "1.png")
    Image.fromarray(half).save(tmp_path / "永" / "2.tif")
    assert (open_characters(str(tmp_path)).pictures == 128).all()
    Image.fromarray(half.astype(np.int32)).save(tmp_path / "永" / "0.tif")
    Image.fromarray(half.astype(np.float32)).save(tmp_path / "永" / "00.tif")
    assert (open_characters(str(tmp_path)).pictures == 128).all()
    assert "2 pictures do not decode" in capsys.readouterr().err


def test_endings_may_be_in_capitals(tmp_path):
    writers(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").iterdir():
        file.rename(tmp_path / "b" / file.name.upper())
    assert len(open_characters(str(tmp_path / "b"))) == 32
    data = {file.name.replace(".", "__"): file.read_bytes() for file in (tmp_path / "b").iterdir()}
    (tmp_path / "c").mkdir()
    write_zip(tmp_path / "c" / "X.ZIP", **data)
    assert len(open_characters(str(tmp_path / "c"))) == 32


def damaged_zip(data, what):
    data, central = bytearray(data), data.rindex(b"PK\x01\x02")
    if what == "crc":
        data[data.index(b"\xd3\xc0") + 500] ^= 1
    elif what == "size too small":
        data[central + 24] -= 1
    elif what == "size too large":
        data[central + 24] += 1
    elif what == "encrypted":
        data[central + 8] |= 1
    elif what == "method":
        data[central + 10] = 99
    elif what == "cut":
        del data[central - 300 : central]
    elif what == "tail":
        del data[-30:]
    return bytes(data)


@pytest.mark.parametrize(
    "what", ["crc", "size too small", "size too large", "encrypted", "method", "cut", "tail"]
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_and_lying_zip_files_are_refused(tmp_path, what, compression):
    path = tmp_path / "a.zip"
    write_zip(path, compression, **{"001__gnt": record("永", noise(1)) + record("永", noise(2))})
    assert len(open_characters(str(path))) == 2
    path.write_bytes(damaged_zip(path.read_bytes(), what))
    assert "a.zip" in fails(str(path))


def test_zip_bombs_are_refused_before_they_expand(tmp_path):
    blank = record("永", np.full((1000, 1000), 255, np.uint8))
    write_zip(tmp_path / "bomb.zip", **{"001__gnt": 20 * blank})
    assert (tmp_path / "bomb.zip").stat().st_size < 50_000
    assert "20000200 bytes in" in fails(str(tmp_path / "bomb.zip"))


def test_archives_inside_a_zip_file_are_named_with_the_tool_that_opens_them(tmp_path):
    for inner, tool in {"Gnt1.0Test__alz": "unalz", "Gnt1.0Test__zip": "unpack"}.items():
        write_zip(tmp_path / "Gnt.zip", **{inner: b"ALZ\x01"})
        message = fails(str(tmp_path))
        assert tool in message and inner.replace("__", ".") in message


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_a_zip_file_gives_samples_or_one_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    write_zip(path, **{"001__gnt": record("永", noise(1, 5, 4)) + record("年", noise(2, 3, 4))})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert 1 <= len(open_characters(str(path), charset="all")) <= 2
    except DataError as error:
        assert "\n" not in str(error)


def test_strokes_need_no_files_and_hold_other_drawings_out(capsys):
    train, test = (open_characters("strokes", classes=3, split=split) for split in ("train", "test"))
    assert train.class_names == test.class_names == list(LEVEL1[:3])
    assert set(test.labels.tolist()) == {0, 1, 2}
    assert not set(raw(train.pictures)) & set(raw(test.pictures))
    assert "3 classes" in capsys.readouterr().out
    assert "3740" in fails("strokes", classes=3741).replace(",", "")


@pytest.mark.parametrize("rank, lines", [(0, 2), (1, 0)])
def test_of_several_processes_one_says_what_was_found(tmp_path, as_rank, capsys, rank, lines):
    as_rank(rank)
    open_characters("strokes", classes=2)
    open_characters(str(writers(tmp_path)))
    assert capsys.readouterr().out.count("\n") == lines


@needs_real
def test_real_handwriting():
    train, test = (open_characters(str(REAL), split=split) for split in ("train", "test"))
    assert (len(train) + len(test), len(train.class_names)) == (9943, 100)
    assert train.class_names == test.class_names
    assert set("一丁七万丈三上下") <= set(train.class_names)
    assert np.bincount(train.labels).min() >= 70
    pictures = train.pictures.numpy()
    paper = np.median(pictures[:, :, [0, 27]], axis=(1, 2))
    assert (paper == 255).mean() > 0.5  # background 255, ink dark
    assert 150 < pictures.mean() < 240
    padded = open_characters(str(REAL), fit="pad", classes=100)
    label = train.class_names.index("一")  # a bar: squashed it fills the square, padded it does not
    squashed_bar = train.pictures[train.labels == label].float().mean(0)
    padded_bar = padded.pictures[padded.labels == label].float().mean(0)
    assert squashed_bar[2].mean() < 240 < padded_bar[2].mean() and padded_bar[14].mean() < 200


@needs_real
def test_real_handwriting_is_recognized_by_its_nearest_class_mean():
    """Labels and pictures belong together: far above the 1% of chance for writers never seen."""
    train, test = (open_characters(str(REAL), split=split) for split in ("train", "test"))
    means = torch.stack([train.pictures[train.labels == k].float().mean(0).flatten() for k in range(100)])
    guess = torch.cdist(test.pictures.float().flatten(1), means).argmin(1)
    assert (guess == test.labels).float().mean() > 0.4
