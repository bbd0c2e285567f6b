import pytest

from data_prep import cimt, far_wall
from data_prep.phantoms import cimt as phantom
from tests.testing import networks
from tests.testing.drive_main import Driver

SMALL = far_wall.Settings(
    patch=17, roi_width=40, roi_height=40, roi_shift=3, rois_per_image=1, patches_per_roi=10
)


@pytest.fixture(scope="session")
def carotid_raw(tmp_path_factory):
    """Six synthetic carotid studies of six subjects, as raw files."""
    folder = tmp_path_factory.mktemp("carotid") / "raw"
    phantom.generate(folder, seed=1, subjects=6, images_per_subject=1)
    return folder


@pytest.fixture(scope="session")
def carotid_records(carotid_raw):
    """Their records: one region of 40 x 40 pixels an image, few patches."""
    return cimt.prepare(carotid_raw, carotid_raw.with_name("records"), settings=SMALL).output


@pytest.fixture
def tiny_network():
    """Name of a network plug-in that is there while the test runs."""
    with networks.installed():
        yield networks.NAME


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A process that runs command lines of medxfer.main, with an empty cache."""
    driver = Driver(MEDXFER_CACHE=str(tmp_path_factory.mktemp("cache")))
    yield driver
    driver.close()
