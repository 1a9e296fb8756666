"""What is stored of a teacher: what it must be of, how it is taken, how it is read in place of running the teacher."""

from svdistill.teacher_cache.cache import MANIFEST, Key, TeacherCache, fingerprint, store

__all__ = ["MANIFEST", "Key", "TeacherCache", "fingerprint", "store"]
