from .averaging import average as average
from .batch_predictor import BatchPredictor as BatchPredictor
from .classifier import Classifier as Classifier
from .output import check_output as check_output
from .persistence import note_results as note_results
from .prediction import PredictedRows as PredictedRows
from .prediction import Prediction as Prediction
from .push import push_saved as push_saved
