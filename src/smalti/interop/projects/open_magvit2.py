from smalti.interop.project import Project
NAMES = {
    "class_emb.embedding_table.": "cls_embedding.",
    "pre_emb.": "head.tables.0.",
    "post_emb.": "head.tables.1.",
    "spatial_blocks.": "layers.",
    "factorized_blocks.": "head.layers.",
    "norm.": "head.norm.",
    "head.0.": "head.parts.0.proj.",
    "head.1.": "head.parts.1.proj.",
}
def gpt_state(state, config):
    found = {}
    for name, t in state.items():
        for a, b in NAMES.items():
            if name.startswith(a):
                found[b + name.removeprefix(a)] = t
                break
        else:
            found[name] = t
    return found
