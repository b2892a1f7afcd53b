"""The day that the demo predicts from, in its commands and in the picture of its page."""

from __future__ import annotations

TODAY = """timestamp,place,behavior
2024-03-18T07:05,home,Weather Check
2024-03-18T07:20,home,News
2024-03-18T08:10,transit,Music
2024-03-18T12:15,work,Short Video
2024-03-18T12:32,work,Short Video
2024-03-18T18:20,transit,Music
2024-03-18T19:40,home,Short Video
"""
