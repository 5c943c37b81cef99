from .averaging import average as average
from .classifier import Classifier as Classifier
from .classifier import Prediction as Prediction
from .persistence import note_results as note_results
from .push import push_saved as push_saved
