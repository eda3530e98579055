"""Retrievers for other libraries, over an index at hand or one that is served: one module and one extra each.

``langchain``, ``llama_index``, ``haystack``, ``pyterrier``. Import the module you need; this package imports none.
"""
