from .build import report_on as report_on
from .build import report_with_texts as report_with_texts
from .page import write_report as write_report
