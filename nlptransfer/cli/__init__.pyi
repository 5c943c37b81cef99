from .app import comparing as comparing
from .app import main as main
from .app import train_vectors_verb as train_vectors_verb
from .finetuning import run_and_show as run_and_show
from .gap import gap_verb as gap_verb
from .recipes import recipe as recipe
from .recipes import run_verb as run_verb
