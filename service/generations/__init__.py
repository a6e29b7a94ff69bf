"""Which generation answers.

``opening`` opens and verifies one, ``rebuilds`` builds one in a process of its own (``records`` keeps the jobs), and
``acceptance`` refuses one that is worse. ``switching`` has another one answer, ``calibrating`` calibrates it anew after
entries were added, ``cluster`` shares it through Milvus.
"""
