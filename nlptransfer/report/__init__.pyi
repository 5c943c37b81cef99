from .build import report_on as report_on
from .build import report_with_texts as report_with_texts
