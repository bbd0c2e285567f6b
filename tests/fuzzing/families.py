"""Families of readers: how a good input looks, and how it is read.

Every family plants a small good input in a folder, says which of its files are to be damaged, and
reads the folder to the end as the commands do.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from data_prep.errors import UserError
from data_prep.readers._images import Unusable

#: What a reader may raise: both become one line for the user.
NAMED = (UserError, Unusable)
Paths = list[pathlib.Path]


class Family:
    """One kind of input."""

    def plant(self, root: pathlib.Path) -> Paths:
        """Write a good input; the files to be damaged."""
        raise NotImplementedError

    def read(self, root: pathlib.Path) -> list[str] | None:
        """Read all of it; what was mended or left out, where the reader says so."""
        raise NotImplementedError


class Colonoscopy(Family):
    """Read by whichever reader knows the folder."""

    def read(self, root):
        from data_prep.readers import _colonoscopy

        notes, failed = [], None
        for source in _colonoscopy.find(root):
            try:
                for _ in _colonoscopy.frames(source, None, notes):
                    pass
            except Unusable as error:  # one case, which would be left out and named
                failed = error
        if failed:
            raise failed
        return notes


class Video(Colonoscopy):
    """H.264 in MP4, with one mask a frame."""

    codec, name = "libx264", "a.mp4"

    def plant(self, root):
        from tests.data_prep.readers.colonoscopy_files import disc, write_image, write_video

        write_video(root / self.name, frames=6, codec=self.codec)
        for number in range(6):
            write_image(root / "a_masks" / f"{number:06d}.png", disc())
        return [root / self.name]


class VideoAvi(Video):
    """MPEG-4 in AVI."""

    codec, name = "mpeg4", "a.avi"


class FrameLabels(Colonoscopy):
    """The table of frame quality beside a video."""

    def plant(self, root):
        from tests.data_prep.readers.colonoscopy_files import write_video

        write_video(root / "a.mp4", frames=4)
        table = root / "frame_quality_labels.csv"
        rows = [f"a.mp4,{number},informative" for number in range(4)]
        table.write_text("video,frame_index,label\n" + "\n".join(rows) + "\n")
        return [table]


class Stills(Colonoscopy):
    """Images with masks, in one file format."""

    suffix = ".png"

    def plant(self, root):
        from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image

        paths = []
        for number in range(2):
            for folder, pixels in (("images", pattern(number)), ("masks", disc())):
                paths.append(root / folder / f"{number}{self.suffix}")
                write_image(paths[-1], pixels)
        return paths


class StillsJpeg(Stills):
    suffix = ".jpg"


class StillsTiff(Stills):
    suffix = ".tif"


class StillsBmp(Stills):
    suffix = ".bmp"


class FramesTable(Colonoscopy):
    """frames.csv with images, masks and cases."""

    def plant(self, root):
        from tests.data_prep.readers.colonoscopy_files import disc, pattern, write_image

        lines = ["image,mask,case"]
        for number in range(3):
            write_image(root / f"i{number}.png", pattern(number))
            write_image(root / f"m{number}.png", disc())
            lines.append(f"i{number}.png,m{number}.png,case{number // 2}")
        (root / "frames.csv").write_text("\n".join(lines) + "\n")
        return [root / "frames.csv"]


class Boxes(Colonoscopy):
    """Boxes as LDPolypVideo has them."""

    def plant(self, root):
        from tests.data_prep.readers.test_lesion_boxes import write_ldpolypvideo

        write_ldpolypvideo(root, "TrainValid", "1", ["0\n", "2\n10 12 20 30\n1 2 5 9\n"])
        return sorted((root / "TrainValid" / "Annotations" / "1").iterdir())


class Carotid(Family):
    """Read by whichever reader knows the folder."""

    def read(self, root):
        from data_prep import cimt
        from data_prep.readers import _carotid

        for source in cimt.find(root):
            _carotid.read(source)


class Cyprus(Carotid):
    """Palette TIFF and MATLAB file."""

    def plant(self, root):
        from tests.data_prep.readers import synthetic

        folder = synthetic.write_cyprus(root, "AAAAA", synthetic.stamped(1), *_walls())
        return sorted(folder.iterdir())


class Cubs(Carotid):
    """TIFF, calibration and profiles as text."""

    def plant(self, root):
        from tests.data_prep.readers import synthetic

        synthetic.write_cubs(root, "clin_0001_L")
        return sorted(path for path in root.rglob("*") if path.is_file())


class Boundaries(Carotid):
    """studies.csv and a table of points for each image."""

    def plant(self, root):
        from tests.data_prep.readers import synthetic

        synthetic.write_csv(root, "a")
        return [root / "studies.csv", root / "a.csv"]


class DicomUltrasound(Carotid):
    def plant(self, root):
        from tests.data_prep.readers.test_dicom_ultrasound import write

        write(root / "a.dcm")
        return [root / "a.dcm"]


class Volume(Family):
    """CT by whichever reader knows the folder."""

    def read(self, root):
        from data_prep.readers import _volumes

        for source in _volumes.find(root):
            _volumes.read_lesions(source, _volumes.read(source))


class DicomCt(Volume):
    def plant(self, root):
        from tests.data_prep.readers.synthetic_ct import chest, series

        return series(root / "series", chest((6, 24, 20)))


class Nifti(Volume):
    suffix = ".nii"

    def plant(self, root):
        import nibabel

        from tests.data_prep.readers.synthetic_ct import affine, chest

        grid = np.diag([-1, -1, 1, 1]) @ affine()
        for name in (f"a{self.suffix}", f"a_label{self.suffix}"):
            values = chest((8, 24, 20)) if "label" not in name else np.zeros((8, 24, 20), np.int16)
            nibabel.save(nibabel.Nifti1Image(values.T, grid), root / name)
        return sorted(root.iterdir())


class NiftiGzip(Nifti):
    suffix = ".nii.gz"


class Nrrd(Volume):
    def plant(self, root):
        import nrrd

        from tests.data_prep.readers.synthetic_ct import affine, chest

        header = {
            "space": "left-posterior-superior",
            "space directions": affine()[:3, :3].T,
            "space origin": affine()[:3, 3],
            "encoding": "gzip",
        }
        nrrd.write(str(root / "a.nrrd"), chest((8, 24, 20)).T, header)
        return [root / "a.nrrd"]


class MetaImage(Volume):
    def plant(self, root):
        from tests.data_prep.readers.synthetic_ct import chest
        from tests.data_prep.readers.test_metaimage import write

        write(root / "a.mha", chest((8, 24, 20)), compressed=True)
        return [root / "a.mha"]


class Detector(Family):
    """A kept detector of polyp candidates."""

    def plant(self, root):
        from data_prep.candidates import polyp
        from data_prep.phantoms import polyp as phantom
        from data_prep.readers import _colonoscopy

        phantom.generate(root / "raw", seed=1, videos=8, frames=3)
        frames = (
            (frame.image, frame.mask, source.name)
            for source in _colonoscopy.find(root / "raw")
            for frame in _colonoscopy.frames(source)
            if frame.mask is not None
        )
        detector = polyp.fit(frames, polyp.Settings(trees=2, samples=500))
        detector.save(root / "candidates.npz")
        return [root / "candidates.npz"]

    def read(self, root):
        from data_prep.candidates import polyp
        from tests.data_prep.readers.colonoscopy_files import pattern

        polyp.load(root / "candidates.npz").detect(pattern(0, 96, 128))


class Weights(Family):
    """Pre-trained weights in one file format."""

    kind = "ours.npz"

    def plant(self, root):
        from tests.medxfer.weights import tiny
        from tests.medxfer.weights.test_formats import WRITERS

        path = root / self.kind
        WRITERS[self.kind](path, tiny.parameters())
        return [path]

    def read(self, root):
        from medxfer.weights import _assign, _formats
        from tests.medxfer.weights import tiny

        (path,) = root.iterdir()
        model = tiny.build()
        _assign.assign(model, tiny.groups(model), _formats.read(path), str(path), True, None)


def _weights(kind: str) -> type[Weights]:
    return type(f"Weights_{kind}", (Weights,), {"kind": kind})


class Settings(Family):
    """config.json of a run."""

    def plant(self, root):
        from medxfer.config import Config

        Config(app="cimt").save(root / "config.json")
        return [root / "config.json"]

    def read(self, root):
        from medxfer.config import Config

        Config.load(root / "config.json")


class Records(Family):
    """A dataset folder: shards and the JSON beside them."""

    def plant(self, root):
        from data_prep import cimt, far_wall
        from data_prep.phantoms import cimt as phantom

        phantom.generate(root / "raw", seed=1, subjects=6, images_per_subject=1)
        small = far_wall.Settings(
            patch=17,
            roi_width=40,
            roi_height=40,
            roi_shift=3,
            rois_per_image=1,
            patches_per_roi=4,
        )
        data = cimt.prepare(root / "raw", root / "data", settings=small).output
        return [*data.glob("*.tfrecord-*"), data / "prep.json", data / "truth.json"]

    def read(self, root):
        from medxfer import data
        from medxfer.dataset_folder import DatasetFolder

        folder = DatasetFolder.open(root / "data", app="cimt")
        for split in ("train", "validation"):
            data.Pipeline(folder, split, batch_size=2, transform=lambda images: images)
        for _ in data.units(folder, "test"):
            pass


def _walls():
    from tests.data_prep.readers import synthetic

    return synthetic.interfaces(60)


FORMATS = (
    "zip.pth",
    "old.pth",
    "new.caffemodel",
    "v1.caffemodel",
    "raw.onnx",
    "keras.weights.h5",
    "keras.keras",
    "ours.npz",
)
FAMILIES: dict[str, Callable[[], Family]] = {
    "video": Video,
    "video_avi": VideoAvi,
    "frame_labels": FrameLabels,
    "png": Stills,
    "jpeg": StillsJpeg,
    "tiff": StillsTiff,
    "bmp": StillsBmp,
    "frames_table": FramesTable,
    "boxes": Boxes,
    "cyprus": Cyprus,
    "cubs": Cubs,
    "boundaries": Boundaries,
    "dicom_ultrasound": DicomUltrasound,
    "dicom_ct": DicomCt,
    "nifti": Nifti,
    "nifti_gzip": NiftiGzip,
    "nrrd": Nrrd,
    "metaimage": MetaImage,
    "detector": Detector,
    "settings": Settings,
    "records": Records,
    **{f"weights_{kind}": _weights(kind) for kind in FORMATS},
}
QUICK = ("frames_table", "cubs", "dicom_ct", "metaimage", "settings")
