"""Which generation answers.

``opening`` opens and verifies one, ``jobs`` builds one in a process of its own (``program``; ``records`` keeps what is
known of it), and ``acceptance`` refuses one that is worse. ``switching`` has another one answer, ``calibrating``
calibrates it anew after entries were added, ``cluster`` shares it through Milvus.
"""
