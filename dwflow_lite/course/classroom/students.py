"""A class and its students: what each of them handed in, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dwflow_lite.course.classroom.copying import Copied
from dwflow_lite.course.classroom.scores import Score


@dataclass
class Student:
    """One student's folder: scores by exercise, and sentences about files.

    Attributes:
        name: of the folder.
        folder: where the work is.
        scores: by number of the exercise, those of this course.
        unread: one sentence for each file that could not be read, or not be counted.
        remarks: one sentence for each thing that a teacher should know of what was counted.
    """

    name: str
    folder: Path
    scores: dict[str, Score] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Class:
    """All students, the course's notebooks, and sentences about files that are no student's."""

    students: list[Student]
    course: Mapping[str, Copied]
    unread: list[str]

    @property
    def exercises(self) -> list[str]:
        """The numbers of all exercises, in order."""
        return [number for copied in self.course.values() for number in copied.exercises]


def files_of(student: Student, pattern: str) -> list[Path]:
    """The student's files of this pattern, anywhere in the folder, without what systems and editors add."""
    found = student.folder.rglob(pattern)
    return sorted(path for path in found if not any(map(is_noise, path.relative_to(student.folder).parts)))


def is_noise(name: str) -> bool:
    """Whether systems and editors put it there: hidden files, checkpoints, what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"
