"""What is stored of a teacher: what it must be of, how it is made, how it is read in place of running the teacher."""

from svdistill.data import fingerprint
from svdistill.teacher_cache.cache import MANIFEST, TeacherCache
from svdistill.teacher_cache.key import Key
from svdistill.teacher_cache.store import Source, store

__all__ = ["MANIFEST", "Key", "Source", "TeacherCache", "fingerprint", "store"]
