"""Small carotid studies in every layout, drawn with known interfaces."""

import pathlib

import numpy as np
import scipy.io
from PIL import Image

SHAPE = (90, 140)
MM = 0.06


def interfaces(count: int = 10, first: float = 10, last: float = 130) -> tuple:
    """Pairs of points: LI falls from row 40 to 46, MA lies 12 rows (.72 mm) below."""
    x = np.linspace(first, last, count)
    y = np.linspace(40, 46, count)
    return np.column_stack([x, y]), np.column_stack([x, y + 12])


def picture(seed: int = 0) -> np.ndarray:
    """uint8 image of ``SHAPE`` with every level."""
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def stamped(text_seed: int, seed: int = 0) -> np.ndarray:
    """Screen of the Cyprus scanner with an exam number (random blocks, one pattern a number)."""
    screen = np.full((576, 768), 10, np.uint8)
    blocks = np.random.default_rng(1000 + text_seed).random((3, 20)) < 0.5
    screen[14:23, 298:398] = np.where(np.kron(blocks, np.ones((3, 5))), 176, 10)
    screen[100:400] = np.random.default_rng(seed).integers(0, 150, (300, 768))
    return screen


def write_cyprus(
    root: pathlib.Path,
    name: str,
    image: np.ndarray,
    li: np.ndarray,
    ma: np.ndarray,
    *,
    scale: float = MM,
    stored: tuple | None = None,
) -> pathlib.Path:
    """One Cyprus folder: palette TIFF and MATLAB 5 file."""
    folder = root / name
    folder.mkdir(parents=True)
    file = Image.fromarray(image).convert("P")
    file.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    file.save(folder / f"{name}.CRI", "TIFF")
    gap = (ma[:, 1] - li[:, 1]) * scale
    mean, least, greatest = stored or (gap.mean(), gap.min(), gap.max())
    both = np.stack([li, ma], axis=1).reshape(-1, 2)
    content = {
        "scale": scale,
        "imt_thikn": mean,
        "Param_1": greatest,
        "Param_2": least,
        "Param_3": both[:, :1] + 1,  # MATLAB counts from 1
        "Param_4": both[:, 1:] + 1,
        "Param_5": 0,
        "Param_6": 0,
    }
    scipy.io.savemat(folder / f"{name}.scl", content, appendmat=False)
    return folder


def write_cubs(
    root: pathlib.Path,
    name: str,
    *,
    rows: bool = False,
    li: np.ndarray | None = None,
    ma: np.ndarray | None = None,
    calibration: str | None = f"{MM}",
    annotator: str = "Manual-A1",
) -> None:
    """One image of a CUBS folder."""
    drawn = root / "LIMA-Profiles" / annotator
    for folder in (root / "IMAGES", root / "CF", drawn):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture()).save(root / "IMAGES" / f"{name}.tiff")
    if calibration is not None:
        (root / "CF" / f"{name}_CF.txt").write_text(calibration)
    default = interfaces(60)
    for suffix, points in (
        ("LI", default[0] if li is None else li),
        ("MA", default[1] if ma is None else ma),
    ):
        np.savetxt(drawn / f"{name}-{suffix}.txt", points.T if rows else points, fmt="%.4f")


def write_csv(
    root: pathlib.Path,
    name: str,
    *,
    subject: str = "person",
    mm_per_pixel: str = f"{MM}",
    image: str | None = None,
    li: np.ndarray | None = None,
    ma: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
) -> None:
    """Add one study to a ``studies.csv`` folder."""
    root.mkdir(exist_ok=True)
    manifest = root / "studies.csv"
    if not manifest.exists():
        manifest.write_text("image,boundaries,subject,mm_per_pixel,case\n")
    with manifest.open("a") as file:
        file.write(f"{image or name + '.png'},{name}.csv,{subject},{mm_per_pixel},{name}\n")
    if image is None:
        Image.fromarray(picture() if pixels is None else pixels).save(root / f"{name}.png")
    (root / f"{name}.csv").write_text(table(li, ma))


def table(li: np.ndarray | None = None, ma: np.ndarray | None = None) -> str:
    """Content of a boundary table."""
    default = interfaces()
    lines = ["interface,x,y"]
    for label, points in (("lumen_intima", li), ("media_adventitia", ma)):
        points = default[label == "media_adventitia"] if points is None else points
        lines += [f"{label},{x},{y}" for x, y in points]
    return "\n".join(lines) + "\n"
