"""The sources of training data: one line each. With them `DataConfig.from_dict` knows their names.

A source of yours is a subclass of `DataConfig` in the file of your recipe.
"""

from loci.data.base import DataConfig
from loci.data.lerobot.episodes import LeRobotData
from loci.data.rooms import RoomsData
from loci.data.tabletop import TabletopData

__all__ = ["DataConfig", "LeRobotData", "RoomsData", "TabletopData"]
