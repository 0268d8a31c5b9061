"""A report that one can click: images, heads and what to do next, in one HTML file."""

from bottleneck.report.content import Report
from bottleneck.report.galleries import Card, Gallery
from bottleneck.report.gathering import make_report
from bottleneck.report.rendering import check_report_file, form_of, write_gallery, write_report
from bottleneck.report.thumbnails import Thumbnail, thumbnails_of

__all__ = [
    "Card",
    "Gallery",
    "Report",
    "Thumbnail",
    "check_report_file",
    "form_of",
    "make_report",
    "thumbnails_of",
    "write_gallery",
    "write_report",
]
