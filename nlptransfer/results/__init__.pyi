from .records import WITHOUT_EFFECT as WITHOUT_EFFECT
from .records import claim as claim
from .records import described as described
from .records import predictions_on_test as predictions_on_test
from .records import write_predictions as write_predictions
