from .comparison import compare as compare
from .data_audit import audit as audit
from .domain_gap import Closed as Closed
from .domain_gap import close_the_gap as close_the_gap
from .domain_gap import side_by_side as side_by_side
from .finetuning import finetune as finetune
from .finetuning import gain_curve as gain_curve
from .ranking import rank as rank
