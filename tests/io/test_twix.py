from __future__ import annotations

import contextlib
import io
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.data import DataError, Flag, MissingPackage, flag_bits
from recon.geometry import check_directions
from recon.io.twix import directions, read
from tests.io.grid import grid, picture

pytest.importorskip("twixtools", reason="twixtools is not installed: pip install twixtools")

NAMES = ("siemens_twix_gre_phantom.dat", "siemens_twix_epi_phantom.dat")


def has(lines: np.ndarray, *flags: Flag) -> np.ndarray:
    return (lines["flags"] & np.uint64(flag_bits(*flags))) != 0


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, data_dir: Path) -> Path:
    return Path(data_dir / "formats" / request.param)


@pytest.fixture
def gre(data_dir: Path) -> Path:
    return data_dir / "formats" / NAMES[0]


@pytest.fixture
def epi(data_dir: Path) -> Path:
    return data_dir / "formats" / NAMES[1]


def other_reader(path: Path) -> Any:
    mapvbvd = pytest.importorskip("mapvbvd", reason="pymapvbvd is not installed: pip install pymapvbvd")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return mapvbvd.mapVBVD(str(path), quiet=True)


def all_samples(other: Any) -> np.ndarray:
    """(line, coil, sample) of one of pymapvbvd's groups of lines."""
    other.flagRemoveOS, other.flagRampSampRegrid, other.flagDisableReflect = False, False, True
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return np.asarray(other.unsorted()).transpose(2, 1, 0)


def test_samples_counters_and_positions_are_those_of_another_reader(path: Path) -> None:
    other = other_reader(path)
    scan = read(path)
    groups = [("image", ~has(scan.lines, Flag.PHASECORR))]
    if "phasecor" in other:
        groups.append(("phasecor", has(scan.lines, Flag.PHASECORR)))
    for name, chosen in groups:
        theirs, rows = other[name], np.nonzero(chosen)[0]
        lines = scan.lines[rows]
        assert len(rows) == theirs.NAcq
        assert np.array_equal(scan.samples.read(rows), all_samples(theirs))
        for own, their in {
            "kspace_encode_step_1": theirs.Lin,
            "kspace_encode_step_2": theirs.Par,
            "slice": theirs.Sli,
            "contrast": theirs.Eco,
            "repetition": theirs.Rep,
            "set": theirs.Set,
            "segment": theirs.Seg,
            "average": theirs.Ave,
            "phase": theirs.Phs,
        }.items():
            assert np.array_equal(lines[own], their), own
        assert np.array_equal(has(lines, Flag.REVERSE), theirs.IsReflected)
        assert np.allclose(lines["position"], theirs.slicePos[:, :3])


def test_the_phantom_is_where_a_plain_fourier_transform_puts_it(gre: Path) -> None:
    data, mask = grid(read(gre))
    x = picture(data)[0, 0]
    assert mask.all()
    inside, outside = x[70:80, 130:190].mean(), x[:, :60].mean()
    assert inside > 8 * outside
    # The phantom is round, 188 mm wide in a readout of 400 mm: 150 of 320 columns, in the middle.
    columns = np.nonzero(x[50:100].mean(axis=0) > 0.3 * inside)[0]
    assert columns.max() - columns.min() == pytest.approx(150, abs=6)
    assert columns.mean() == pytest.approx(160, abs=6)


def test_grid_timing_and_scanner_are_the_protocols(gre: Path, epi: Path) -> None:
    scan = read(gre)
    e, h = scan.encodings[0], scan.header
    assert (e.encoded_matrix, e.recon_matrix) == ((320, 160, 1), (160, 160, 1))
    assert e.encoded_fov == pytest.approx((400, 200, 4))
    assert e.recon_fov == pytest.approx((200, 200, 4))
    assert e.trajectory == "cartesian"
    assert e.limits["kspace_encoding_step_1"].center == 80
    assert (h.sequence.TR, h.sequence.TE, h.sequence.TI, h.sequence.flip_deg) == ((10.0,), (3.0,), (), (15.0,))
    assert h.system.vendor == "SIEMENS"
    assert h.system.model == "Skyra"
    assert h.system.field_T == pytest.approx(2.89362)
    assert h.system.frequency_Hz == 123263034
    assert len(h.system.coil_labels) == 2
    assert h.study.patient_position == "HFS"
    assert set(scan.lines["sample_time_us"].tolist()) == {np.float32(11.6)}
    p = read(epi).encodings[0]
    assert (p.trajectory, p.trajectory_name) == ("epi", "ConventionalEPI")
    assert {k: p.trajectory_parameters[k] for k in ("rampUpTime", "flatTopTime", "rampDownTime", "acqDelayTime")} == {
        "rampUpTime": 160,
        "flatTopTime": 240,
        "rampDownTime": 160,
        "acqDelayTime": 32,
    }
    assert p.trajectory_parameters["dwellTime"] == pytest.approx(3.1)
    assert p.trajectory_parameters["numberOfNavigators"] == 3
    assert p.trajectory_parameters["etl"] == 80


def test_navigators_are_flagged_and_reversed_readouts_mirror_forward_ones(epi: Path) -> None:
    lines = read(epi).lines
    assert has(lines, Flag.PHASECORR).sum() == 3
    reverse = has(lines, Flag.REVERSE)
    assert reverse.sum() == 42
    ns, centre = lines["number_of_samples"].astype(int), lines["center_sample"].astype(int)
    assert set((ns - 1 - centre)[reverse].tolist()) == set(centre[~reverse].tolist()) == {80}


def test_directions_are_those_of_the_prescribed_slice(path: Path) -> None:
    # The protocol's normal is (0, 0.0384, 0.9993), an axial slice tilted about the left-right axis.
    line = read(path).lines[0]
    check_directions(line["read_dir"], line["phase_dir"], line["slice_dir"])
    assert line["slice_dir"] == pytest.approx([0, 0.0383878015, 0.9992629886], abs=1e-6)
    assert abs(line["read_dir"][0]) == pytest.approx(1, abs=1e-6)
    assert line["position"] == pytest.approx([-2.58969998, 53.92242644, -53.99947453], abs=1e-4)


def test_the_quaternion_is_a_rotation_by_its_own_definition() -> None:
    # A turn by 2·acos(w) about (x, y, z), applied to the axes by Rodrigues' formula.
    q = np.array([0.8, 0.2, -0.4, 0.4])
    q /= np.linalg.norm(q)
    axis, angle = q[1:] / np.linalg.norm(q[1:]), 2 * np.arccos(q[0])

    def turn(v: np.ndarray) -> np.ndarray:
        return np.asarray(
            v * np.cos(angle) + np.cross(axis, v) * np.sin(angle) + axis * (axis @ v) * (1 - np.cos(angle))
        )

    read_dir, phase_dir, slice_dir = directions(list(q))
    for got, v, sign in ((phase_dir, [1, 0, 0], -1), (read_dir, [0, 1, 0], -1), (slice_dir, [0, 0, 1], 1)):
        assert got == pytest.approx(sign * turn(np.array(v, float)))
    assert not np.any(directions([0.0, 0.0, 0.0, 0.0]))


def test_patient_data_stay_out_of_what_is_printed(gre: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.dat"
    named.write_bytes(gre.read_bytes().replace(b'"xxxxxxx"', b'"DOEJANE"'))
    scan = read(named)
    assert read(gre).header.patient.name == read(gre).header.patient.id == ""  # anonymised to x
    assert scan.header.patient.name == "DOEJANE"
    assert "DOE" not in repr(scan) + " ".join(scan.notes)


def blocks(path: Path) -> tuple[bytes, list[bytes]]:
    """Header of the only measurement of a VD file, and its readouts, cut by the documented sizes."""
    raw = path.read_bytes()
    offset = struct.unpack_from("<Q", raw, 16)[0]
    start = offset + struct.unpack_from("<I", raw, offset)[0]
    out, header = [], raw[offset:start]
    while True:
        samples, channels = struct.unpack_from("<HH", raw, start + 48)
        mask = struct.unpack_from("<Q", raw, start + 40)[0]
        size = struct.unpack_from("<I", raw, start)[0] & 0x1FFFFFF if mask & 1 else 192 + channels * (32 + 8 * samples)
        out.append(raw[start : start + size])
        if mask & 1:
            return header, out
        start += size


def vd_file(target: Path, *measurements: tuple[bytes, list[bytes]]) -> Path:
    raw = bytearray(10240)
    struct.pack_into("<II", raw, 0, 0, len(measurements))
    for i, (header, readouts) in enumerate(measurements):
        raw.extend(bytes(-len(raw) % 512))
        body = header + b"".join(readouts)
        struct.pack_into("<IIQQ", raw, 8 + 152 * i, 1, 1, len(raw), len(body))
        raw.extend(body)
    target.write_bytes(bytes(raw))
    return target


def flagged(readouts: list[bytes], mask: int) -> list[bytes]:
    return [r[:40] + struct.pack("<Q", mask | struct.unpack_from("<Q", r, 40)[0] & 1) + r[48:] for r in readouts]


def test_noise_of_an_earlier_measurement_comes_first_and_adjustments_are_left_out(gre: Path, tmp_path: Path) -> None:
    header, readouts = blocks(gre)
    earlier = [*flagged(readouts[:4], 1 << 25), *flagged(readouts[4:10], 1 << 34), readouts[-1]]
    scan = read(vd_file(tmp_path / "two.dat", (header, earlier), (header, readouts)))
    assert len(scan.lines) == 164
    assert has(scan.lines, Flag.NOISE).tolist() == [True] * 4 + [False] * 160
    assert scan.lines["sample_time_us"][0] == pytest.approx(24.0)  # 76800 / 320 tenths of a µs
    assert any("6 lines of adjustments" in n for n in scan.notes)
    plain = read(gre)
    assert np.array_equal(scan.samples.read(np.array([2, 7])), plain.samples.read(np.array([2, 3])))


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ((25,), flag_bits(Flag.NOISE)),
        ((22,), flag_bits(Flag.CALIBRATION)),
        ((22, 23), flag_bits(Flag.CALIBRATION_AND_IMAGING)),
        ((21, 24), flag_bits(Flag.PHASECORR, Flag.REVERSE)),
        ((1,), flag_bits(Flag.RTFEEDBACK)),
        ((14,), flag_bits(Flag.PHASE_STABILIZATION_REFERENCE)),
        ((51,), flag_bits(Flag.DUMMY)),
        ((28, 29, 11), 1 << 6 | 1 << 7 | flag_bits(Flag.LAST_IN_MEASUREMENT)),
        ((3, 10), 0),
    ],
)
def test_each_flag_comes_to_its_number(gre: Path, tmp_path: Path, bits: tuple[int, ...], expected: int) -> None:
    header, readouts = blocks(gre)
    readouts[5] = flagged(readouts[5:6], sum(1 << b for b in bits))[0]
    lines = read(vd_file(tmp_path / "flag.dat", (header, readouts))).lines
    assert int(lines["flags"][5]) == expected


def test_counters_cut_offs_and_centres_are_taken_from_each_readout(gre: Path, tmp_path: Path) -> None:
    header, readouts = blocks(gre)
    # Lin, Ave, Sli, Par, Eco, Phs, Rep, Set, Seg at byte 52, cut-offs at 80, the centres at 84 and 96.
    values = struct.pack("<9H", 11, 12, 13, 14, 0, 16, 17, 18, 19)
    r = readouts[3]
    r = r[:52] + values + r[70:80] + struct.pack("<HHH", 5, 7, 150) + r[86:96] + struct.pack("<HH", 81, 2) + r[100:]
    readouts[3] = r
    line = read(vd_file(tmp_path / "c.dat", (header, readouts))).lines[3]
    names = ["kspace_encode_step_1", "average", "slice", "kspace_encode_step_2", "contrast"]
    names += ["phase", "repetition", "set", "segment"]
    assert [int(line[n]) for n in names] == [11, 12, 13, 14, 0, 16, 17, 18, 19]
    assert (line["discard_pre"], line["discard_post"], line["center_sample"]) == (5, 7, 150)
    assert line["user"][5:7].tolist() == [81, 2]


def vb_file(target: Path, header: bytes, readouts: list[bytes]) -> Path:
    """The same readouts in the older layout: 128 bytes before each channel, no table of contents."""
    out = [header]
    for r in readouts:
        samples, channels = struct.unpack_from("<HH", r, 48)
        end = struct.unpack_from("<Q", r, 40)[0] & 1
        common = r[:20] + r[40:48] + r[48:52] + r[52:100]  # to the centre partition
        place = r[100:128]
        for c in range(max(1, channels)):
            first = 192 + c * (32 + 8 * samples) + 32
            mdh = common + bytes(16) + place + struct.pack("<HH", c, 0)
            assert len(mdh) == 128
            if end:
                mdh = struct.pack("<I", 128) + mdh[4:28] + struct.pack("<HH", 0, 1) + mdh[32:]
            out.append(mdh + (b"" if end else r[first : first + 8 * samples]))
    target.write_bytes(b"".join(out))
    return target


def test_the_older_layout_gives_the_same_scan(gre: Path, tmp_path: Path) -> None:
    old, new = read(vb_file(tmp_path / "vb.dat", *blocks(gre))), read(gre)
    rows = np.arange(len(new.lines))
    assert np.array_equal(old.samples.read(rows), new.samples.read(rows))
    assert np.array_equal(old.lines, new.lines)
    assert old.encodings == new.encodings
    theirs = other_reader(tmp_path / "vb.dat").image
    assert np.array_equal(old.samples.read(rows), all_samples(theirs))


def test_lines_cut_off_at_the_end_of_the_older_layout_are_left_out(gre: Path, tmp_path: Path) -> None:
    whole = vb_file(tmp_path / "vb.dat", *blocks(gre)).read_bytes()
    (tmp_path / "short.dat").write_bytes(whole[: len(whole) - 128 - 1000])
    scan = read(tmp_path / "short.dat")
    assert len(scan.lines) == 159
    assert any("truncated" in n for n in scan.notes)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_a_file_cut_short_is_refused(gre: Path, tmp_path: Path, share: float) -> None:
    raw = gre.read_bytes()
    (tmp_path / "short.dat").write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(DataError, match="copy is incomplete"):
        read(tmp_path / "short.dat")


@pytest.mark.parametrize(
    "content", [b"", b"1234", bytes(8), bytes(20000), b"\x00\x00\x00\x00\x01\x00\x00\x00" + bytes(99), b"no" * 9000]
)
def test_other_files_are_refused_with_the_cure(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dat").write_bytes(content)
    with pytest.raises(DataError, match=r"copy it again|not a Siemens raw data"):
        read(tmp_path / "x.dat")


def test_a_scan_with_only_noise_lines_is_refused(gre: Path, tmp_path: Path) -> None:
    header, readouts = blocks(gre)
    with pytest.raises(DataError, match="none of an image"):
        read(vd_file(tmp_path / "n.dat", (header, flagged(readouts, 1 << 25))))
    with pytest.raises(DataError, match="no lines"):
        read(vd_file(tmp_path / "n.dat", (header, readouts[-1:])))


def test_simultaneous_slices_are_refused(gre: Path, tmp_path: Path) -> None:
    raw = re.sub(rb"(sSliceAcceleration\.lMultiBandFactor\s*=\s*)1", rb"\g<1>3", gre.read_bytes())
    (tmp_path / "s.dat").write_bytes(raw)
    with pytest.raises(DataError, match="3 slices at once"):
        read(tmp_path / "s.dat")


def test_without_the_package_the_message_says_how_to_install_it(gre: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twixtools", None)
    with pytest.raises(MissingPackage, match="pip install twixtools"):
        read(gre)
