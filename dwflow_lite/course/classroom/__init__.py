"""The course in a class: the student's copy, the scores that ``check`` keeps in it, and a teacher's table of them.

``copying`` makes the copy, ``scores`` keeps and reads the files, ``students`` says what a class is, ``rerunning`` asks
the students' own code again, ``grading`` reads a class and puts it into the table. Nothing here needs torch.
"""
