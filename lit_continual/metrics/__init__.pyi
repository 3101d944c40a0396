from .overlap import Dice as Dice
from .overlap import Precision as Precision
from .paired_test import PairedTest as PairedTest
from .paired_test import paired_test as paired_test
from .per_case_score import PerCaseScore as PerCaseScore
from .surface_distance import AverageSurfaceDistance as AverageSurfaceDistance
from .surface_distance import HausdorffDistance95 as HausdorffDistance95
from .surface_distance import SurfaceDistance as SurfaceDistance
