"""The course in a class: the student's copy, the scores that ``check`` keeps in it, and a teacher's table of them.

``copying`` makes the copy, ``scores`` keeps and reads the files, ``grading`` reads a class, ``rerunning`` asks the
students' own code again. Nothing here needs torch.
"""
