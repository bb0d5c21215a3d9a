"""The sources of training data: one line each. With them `DataConfig.from_dict` knows their names.

A source of yours is a subclass of `DataConfig` in the file of your recipe.
"""

from loci.data.base import DataConfig
from loci.data.context_as_memory import ContextAsMemoryData
from loci.data.lerobot.episodes import LeRobotData
from loci.data.mixed import MixedData
from loci.data.rooms import RoomsData
from loci.data.tabletop import TabletopData
from loci.data.videos import VideosData

__all__ = [
    "ContextAsMemoryData", "DataConfig", "LeRobotData", "MixedData", "RoomsData", "TabletopData",
    "VideosData",
]
