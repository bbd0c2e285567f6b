"""Families of classified images, and of the JSON tables that come with other images."""

import json
import shutil
import tempfile

import numpy as np
from PIL import Image

from tests.fuzzing.families import Boxes, Carotid, Cyprus, Family, Stills


class Classified(Family):
    """Read by whichever reader knows the folder."""

    def read(self, root):
        from data_prep.readers import _classification, image_npz
        from data_prep.readers._images import Unusable
        from data_prep.readers._pictures import Decoding

        found, notes, failed = _classification.find(root), [], None
        arrays = tempfile.mkdtemp(dir=root.parent)
        try:
            if any(picture.member for picture in found.pictures):
                image_npz.unpack(found.pictures, root, root.parent / arrays)
            for picture in found.pictures:
                try:
                    notes += _classification.read(picture, Decoding(), root.parent / arrays)[1]
                except Unusable as error:  # one image, which would be left out and named
                    failed = error
        finally:
            shutil.rmtree(arrays)
        if failed:
            raise failed
        return notes


class Pictures(Classified):
    """Class folders with images of every format, of 8 and 16 bits, with EXIF and comments."""

    def plant(self, root):
        from tests.data_prep.pictures import save, texture

        exif = Image.Exif()
        exif[274] = 6
        deep = texture(9).astype(np.uint16) * 257
        paths = [
            save(root / "ill" / "a.png", texture(1)),
            save(root / "ill" / "b.jpg", np.dstack([texture(2)] * 3), exif=exif, comment=b"x"),
            save(root / "ill" / "c.tif", deep),
            save(root / "well" / "d.png", deep),
            save(root / "well" / "e.bmp", np.dstack([texture(3)] * 3)),
            save(root / "well" / "f.webp", np.dstack([texture(4)] * 3), lossless=True),
            save(root / "well" / "g.tif", texture(5), compression="tiff_lzw"),
        ]
        return paths


class Dicom(Classified):
    """Class folders with DICOM files, one of several frames."""

    def plant(self, root):
        from tests.data_prep.pictures import texture, write_dicom

        several = np.stack([texture(seed) for seed in (1, 2)]).astype(np.uint16)
        return [
            write_dicom(root / "ill" / "a.dcm", several, PatientID="one"),
            write_dicom(root / "well" / "b.dcm", np.dstack([texture(3)] * 3), PatientID="two"),
        ]


class Table(Classified):
    """A table of images, labels, subjects and splits."""

    def plant(self, root):
        from tests.data_prep.pictures import save, texture

        lines = ["path,label,subject,split"]
        for number, split in enumerate(("train", "train", "val", "test")):
            save(root / f"i{number}.png", texture(number))
            lines.append(f"i{number}.png,{'ab'[number % 2]},s{number},{split}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
        return [root / "labels.csv"]


class Arrays(Classified):
    """One npz file as MedMNIST has them."""

    def plant(self, root):
        from tests.data_prep.readers.test_classification import arrays

        np.savez_compressed(root / "set.npz", **arrays())
        return [root / "set.npz"]


class CyprusJson(Carotid):
    """The interfaces as JSON, where there is no MATLAB file."""

    def plant(self, root):
        from tests.data_prep.readers import synthetic

        li, ma = synthetic.interfaces(60)
        (image, *others) = Cyprus().plant(root)
        folder = image.parent
        for path in others:
            path.unlink()
        wall = {
            name: {"x": (points[:, 0] + 1).tolist(), "y": (points[:, 1] + 1).tolist()}
            for name, points in (("lumen_intima", li), ("media_adventitia", ma))
        }
        said = {"mean": 0.72, "max": 0.72, "min": 0.72}
        path = folder / f"{folder.name}_boundaries.json"
        content = {"mm_per_pixel": synthetic.MM, "imt_mm": said, "far_wall": wall}
        path.write_text(json.dumps(content))
        return [path]


class KvasirJson(Stills):
    """Boxes of Kvasir-SEG beside its images."""

    suffix = ".jpg"

    def plant(self, root):
        super().plant(root)
        boxes = [{"label": "polyp", "xmin": 9, "ymin": 12, "xmax": 34, "ymax": 36}]
        table = root / "kavsir_bboxes.json"
        table.write_text(
            json.dumps({name: {"height": 48, "width": 64, "bbox": boxes} for name in "01"})
        )
        return [table]


class SunJson(Boxes):
    """Boxes of SUN-SEG."""

    def plant(self, root):
        from tests.data_prep.readers.test_lesion_boxes import write_sun_seg

        content = write_sun_seg(root, "TrainDataset", "case1_1", 0)
        table = root / "TrainDataset/Detection/bbox_annotation.json"
        table.parent.mkdir()
        table.write_text(json.dumps(content))
        return [table]


FAMILIES = {
    "pictures": Pictures,
    "pictures_dicom": Dicom,
    "pictures_table": Table,
    "pictures_npz": Arrays,
    "cyprus_json": CyprusJson,
    "kvasir_json": KvasirJson,
    "sun_json": SunJson,
}
