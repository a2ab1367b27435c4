"""Scores of filters, shard by shard: computed by `annotate`, kept in a store that nothing is ever overwritten in."""

from curate.annotations.scoring import annotate
from curate.annotations.store import MANIFEST, Annotations, AnnotationStore, folder_name, load_annotations, struct_type_of

__all__ = ["MANIFEST", "AnnotationStore", "Annotations", "annotate", "folder_name", "load_annotations", "struct_type_of"]
