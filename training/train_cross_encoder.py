"""Fine-tune all-MiniLM-L6-v2 into the demo's cross-encoder: a (query, item) pair in, one logit out.

    python training/train_cross_encoder.py --base minilm --wordnet package/dict --out training/runs/pass6 --to-pass 6

(`make.sh` has all commands.) Two stages on the CE-train splits, both resumed from the last checkpoint when the command
is run again:

1. *Encoder*: contrastive training of the bi-encoder (in-batch softmax). A text costs one pass there and meets 127
   negatives, so the encoder learns the field's synonyms at a fraction of what pairs would cost. Its nearest items
   are the hard negatives of stage 2.
2. *Cross-encoder*: from those weights, listwise softmax over the right item and eight wrong ones. Every step the
   model as it stands scores a pool for each query (items the bi-encoder finds near, random items, and *hubs*: items
   that lately fooled it for other queries) and trains on the six it likes best and two random ones. So its negatives
   are its own mistakes, at every step, and no item can stay high for everything. The last passes take what a search
   of the model as it stands finds among all items (`mine.py`) in place of hubs.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, BertForSequenceClassification

from crossknn.datasets.icd10cm import load_icd10cm_10k
from examples import Corpus, load_corpora

FROZEN = "bert.embeddings.word_embeddings.weight"
# On a CPU that lacks it, bfloat16 is a hundred times slower.
BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass(frozen=True)
class Pass:
    """One pass of stage 2.

    Attributes:
        steps, lr: of its schedule (linear warm-up over a twentieth, then linear decay).
        shares: of the steps, for ICD-10-CM, HPO, WordNet.
        real_only: leave out the phrases that are not of a data set's own kind (notes, descriptions).
        frozen: layers at the bottom that stay as they are, with the embeddings: a third more steps in the same time,
            and what the base model knows of rare words stays.
        far: random items that the model looks through for each query, in place of the recipe's few; the two it likes
            best are trained on in place of two random ones. Under brute force, what matters is the one item in
            thousands that rises for no reason.
        mined: ICD-10-CM's queries are those that were searched for (`mine.py`), and so many of the items that the
            search found stand in their pools in place of hubs: what the model before this pass likes best among all.
        reached: those of them whose right item is not among so many nearest of the base model's are left out (0: none
            are). What a small model cannot know teaches it to leap.
        distilled: weight of the base model's opinion as a bi-encoder (KL over the same lists). Fine-tuning forgets
            part of what it knows of similar texts: beside the shipped model's logits it still helped on dev queries.
    """

    steps: int
    lr: float
    shares: tuple[float, float, float]
    real_only: bool = True
    frozen: int = 0
    distilled: float = 0.0
    far: int = 0
    mined: int = 0
    reached: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights."""

    seed: int = 0
    encoder_steps: int = 360
    encoder_batch: int = 128
    encoder_lr: float = 5e-5
    encoder_shares: tuple[float, float, float] = (0.70, 0.20, 0.10)
    temperature: float = 0.05
    passes: tuple[Pass, ...] = (
        Pass(1100, 6e-5, (0.70, 0.20, 0.10), real_only=False),
        Pass(500, 4e-5, (0.70, 0.20, 0.10), real_only=False),
        Pass(1300, 4e-5, (0.70, 0.22, 0.08), frozen=2, distilled=0.5),
        Pass(1800, 6e-5, (0.70, 0.22, 0.08), frozen=2, distilled=0.5),
        Pass(1300, 6e-5, (0.70, 0.22, 0.08), frozen=2, distilled=0.5),
        Pass(500, 4e-5, (0.70, 0.22, 0.08), frozen=2, distilled=0.5, far=64),
        Pass(500, 5e-5, (0.70, 0.22, 0.08), frozen=2, distilled=0.5, mined=20, reached=1000),
        Pass(500, 5e-5, (0.70, 0.22, 0.08), frozen=2, distilled=1.0, mined=20, reached=100),
    )
    queries_per_step: int = 16
    near: int = 8
    random: int = 5
    hubs: int = 4
    hub_memory: int = 2048
    trained_top: int = 6
    trained_random: int = 2
    near_depth: int = 40
    max_length: int = 64


@dataclass(frozen=True)
class Opinion:
    """What the base model, as a bi-encoder, makes of a corpus: unit vectors, and each query's nearest items."""

    queries: Tensor  # (n_queries, 384) float16
    items: Tensor  # (n_items, 384) float16
    near: np.ndarray  # (n_queries, near_depth)


class Trainer:
    def __init__(self, recipe: Recipe, base: Path, wordnet: Path, out: Path, mined: Path | None = None) -> None:
        self.recipe, self.out, self.mined = recipe, out, mined
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        torch.manual_seed(recipe.seed)
        self.model = BertForSequenceClassification.from_pretrained(
            base,
            num_labels=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
        self.frozen = 0
        # The word embeddings stay as they are: with 10K queries they would only learn the words these happen to use.
        self.model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
        self.corpora = load_corpora(wordnet, np.random.default_rng(recipe.seed))
        for corpus in self.corpora:
            print(f"{corpus.name}: {len(corpus.queries)} queries, {len(corpus.items)} items", flush=True)

    # -- stage 1: the bi-encoder -------------------------------------------------------------------------------

    def embed(self, texts: list[str], batch: int = 32) -> Tensor:
        """Unit vectors (len(texts), 384), in length-sorted batches so that little is padded."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [self._pooled([texts[i] for i in order[s : s + batch]]) for s in range(0, len(order), batch)]
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]

    def _pooled(self, texts: list[str]) -> Tensor:
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.recipe.max_length, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            hidden = self.model.bert(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    def train_encoder(self) -> None:
        r = self.recipe
        optimizer, schedule = self._optimizer(r.encoder_lr, r.encoder_steps)
        for step in range(self._resume("encoder", optimizer, schedule), r.encoder_steps):
            rng = np.random.default_rng((r.seed, 1, step))
            corpus = self.corpora[rng.choice(3, p=r.encoder_shares)]
            picked = rng.choice(len(corpus.queries), r.encoder_batch, replace=False)
            labels = corpus.labels[picked]
            q, v = self.embed([corpus.queries[i] for i in picked] + [corpus.items[i] for i in labels]).split(
                len(labels)
            )
            logits = q @ v.T / r.temperature
            same = torch.from_numpy(labels[:, None] == labels[None, :]) & ~torch.eye(len(labels), dtype=torch.bool)
            logits = logits.masked_fill(same, -1e4)
            target = torch.arange(len(labels))
            loss = torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(
                logits.T, target
            )
            self._step(loss / 2, optimizer, schedule)
            self._log("encoder", step, loss.item() / 2, corpus.name)
            if (step + 1) % 100 == 0 or step + 1 == r.encoder_steps:
                self._checkpoint("encoder", step + 1, optimizer, schedule)

    def opinions(self) -> list[Opinion]:
        """The base model's, for each corpus; computed once (five minutes), before any training."""
        path = self.out / "base.npz"
        if not path.exists():
            found = {}
            with torch.no_grad():
                for c in self.corpora:
                    queries, items = self.embed(c.queries), self.embed(c.items)
                    found[f"{c.name}.queries"], found[f"{c.name}.items"] = queries.half().numpy(), items.half().numpy()
                    found[f"{c.name}.near"] = _top(queries, items, self.recipe.near_depth)
            np.savez(path, **found)
        stored = np.load(path)
        return [
            Opinion(
                torch.from_numpy(stored[f"{c.name}.queries"]),
                torch.from_numpy(stored[f"{c.name}.items"]),
                stored[f"{c.name}.near"],
            )
            for c in self.corpora
        ]

    # -- stage 2: the cross-encoder ----------------------------------------------------------------------------

    def score(self, pairs: list[tuple[str, str]], batch: int = 64) -> Tensor:
        """Logits of pairs, in length-sorted batches so that little is padded."""
        encoded = self.tokenizer(
            [p[0] for p in pairs], [p[1] for p in pairs], truncation=True, max_length=self.recipe.max_length
        )
        order = sorted(range(len(pairs)), key=lambda i: len(encoded["input_ids"][i]))
        parts = []
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            padded = self.tokenizer.pad({k: [v[i] for i in rows] for k, v in encoded.items()}, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
                parts.append(self._logits(padded).float())
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        """(n,) what BertForSequenceClassification gives, but the last layer computes the first token alone."""
        bert, keep = self.model.bert, batch["attention_mask"][:, None, None, :].bool()
        layers = list(bert.encoder.layer)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen == 0):
            x = bert.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])
            for layer in layers[: self.frozen]:
                x = _transform(layer, x, x, keep)
        for layer in layers[self.frozen : -1]:
            x = _transform(layer, x, x, keep)
        x = _transform(layers[-1], x[:, :1], x, keep)
        return self.model.classifier(torch.tanh(bert.pooler.dense(x[:, 0])))[:, 0]

    def train_cross_encoder(self, number: int) -> None:
        """One pass, from the weights as they are, with a warm-up and draws of its own. The first pass is number 1."""
        r, this = self.recipe, self.recipe.passes[number - 1]
        stage = f"cross-encoder-{number}"
        opinions = self.opinions()
        self.frozen = this.frozen
        for layer in self.model.bert.encoder.layer[: this.frozen]:
            layer.requires_grad_(False)
        self.model.bert.embeddings.requires_grad_(this.frozen == 0)
        self.model.bert.embeddings.word_embeddings.requires_grad_(False)
        hubs: list[list[int]] = [[] for _ in self.corpora]
        drawn_from = [np.arange(c.n_real if this.real_only else len(c.queries)) for c in self.corpora]
        mined = self.read_mined(opinions[0], this.reached) if this.mined else {}
        if mined:
            drawn_from[0] = np.array(list(mined))
        optimizer, schedule = self._optimizer(this.lr, this.steps)
        for step in range(self._resume(stage, optimizer, schedule, hubs), this.steps):
            rng = np.random.default_rng((r.seed, number + 1, step))
            which = int(rng.choice(3, p=this.shares))
            corpus, opinion = self.corpora[which], opinions[which]
            picked = rng.choice(drawn_from[which], r.queries_per_step, replace=False)
            n_random = this.far or r.random
            others = [mined[int(i)] if which == 0 and mined else hubs[which] for i in picked]
            n_others = this.mined if which == 0 and mined else r.hubs
            pools = [
                self._pool(corpus, i, n_random, opinion.near[i], o, n_others, rng)
                for i, o in zip(picked, others, strict=True)
            ]
            with torch.no_grad():
                pairs = [
                    (corpus.queries[i], corpus.items[j]) for i, pool in zip(picked, pools, strict=True) for j in pool
                ]
                scores = torch.split(self.score(pairs), [len(pool) for pool in pools])
            lists = []
            for i, pool, s in zip(picked, pools, scores, strict=True):
                by_score = torch.argsort(s, descending=True).tolist()
                worst = [pool[n] for n in by_score[: r.trained_top]]
                hubs[which] = [*hubs[which], *worst[:2]][-r.hub_memory :]
                drawn = [pool[n] for n in by_score if n < n_random] if this.far else pool[:n_random]
                rest = [j for j in drawn if j not in worst][: r.trained_random]
                lists.append([int(corpus.labels[i]), *worst, *rest])
            pairs = [
                (corpus.queries[i], corpus.items[j]) for i, items in zip(picked, lists, strict=True) for j in items
            ]
            logits = torch.split(self.score(pairs), [len(items) for items in lists])
            loss = torch.stack([torch.logsumexp(s, 0) - s[0] for s in logits]).mean()
            if this.distilled:
                loss = loss + this.distilled * self._disagreement(opinion, picked, lists, logits)
            self._step(loss, optimizer, schedule)
            self._log(stage, step, loss.item(), corpus.name)
            if (step + 1) % 100 == 0 or step + 1 == this.steps:
                self._checkpoint(stage, step + 1, optimizer, schedule, hubs)

    def _disagreement(
        self, opinion: Opinion, queries: np.ndarray, lists: list[list[int]], logits: tuple[Tensor, ...]
    ) -> Tensor:
        """KL divergence of the lists' softmax from the base model's."""
        parts = []
        for query, items, scores in zip(queries, lists, logits, strict=True):
            cosines = opinion.items[items].float() @ opinion.queries[query].float()
            parts.append(
                torch.nn.functional.kl_div(
                    torch.log_softmax(scores, 0),
                    torch.log_softmax(cosines / self.recipe.temperature, 0),
                    reduction="sum",
                    log_target=True,
                )
            )
        return torch.stack(parts).mean()

    def read_mined(self, opinion: Opinion, reached: int) -> dict[int, np.ndarray]:
        """ICD-10-CM's queries that were searched for, each with the items found, best first."""
        assert self.mined is not None, "main sees to that"
        stored = np.load(self.mined)
        queries, labels = stored["queries"], self.corpora[0].labels[stored["queries"]]
        cosines = opinion.queries[queries].float() @ opinion.items.float().T
        ranks = (cosines > cosines[torch.arange(len(queries)), labels][:, None]).sum(1).numpy()
        kept = (ranks < reached) | (reached == 0)
        return {int(i): items for i, items, keep in zip(queries, stored["items"], kept, strict=True) if keep}

    def _pool(
        self,
        corpus: Corpus,
        query: int,
        n_random: int,
        near: np.ndarray,
        others: np.ndarray | list[int],
        n_others: int,
        rng: np.random.Generator,
    ) -> list[int]:
        """Wrong items for a query, the random ones first. Items that read like the right one are left out."""
        r = self.recipe
        label = corpus.items[corpus.labels[query]]
        drawn = [*rng.integers(len(corpus.items), size=n_random), *rng.choice(near, r.near, replace=False)]
        if len(others):
            drawn += list(rng.choice(others, n_others))
        return [int(j) for j in dict.fromkeys(drawn) if corpus.items[j] != label]

    # -- shared ------------------------------------------------------------------------------------------------

    def _optimizer(self, lr: float, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01, fused=True)
        warm = max(1, steps // 20)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / warm, max(0.0, (steps - s) / (steps - warm)))
        )

    def _step(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR
    ) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    def _checkpoint(self, stage: str, step: int, optimizer, schedule, hubs: list[list[int]] | None = None) -> None:
        state = {
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "hubs": hubs or [],
        }
        aside = self.out / f"{stage}.tmp"
        torch.save(state, aside)
        aside.rename(self.out / f"{stage}.pt")

    def _resume(self, stage: str, optimizer, schedule, hubs: list[list[int]] | None = None) -> int:
        path = self.out / f"{stage}.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if hubs is not None:
            hubs[:] = state["hubs"]
        print(f"{stage}: resumed at step {state['step']}", flush=True)
        return int(state["step"])

    def _log(self, stage: str, step: int, loss: float, corpus: str) -> None:
        row = {"stage": stage, "step": step, "loss": round(loss, 4), "corpus": corpus, "time": round(time.time(), 1)}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def load_weights(self, path: Path) -> None:
        """Trained weights as :meth:`save_weights` wrote them; the word embeddings stay the base model's."""
        missing, unexpected = self.model.load_state_dict(
            {name: tensor.float() for name, tensor in load_file(path).items()}, strict=False
        )
        if unexpected or missing != [FROZEN]:
            raise SystemExit(f"{path} does not fit the model: missing {missing}, unexpected {unexpected}")

    def save_weights(self, path: Path) -> None:
        """Everything that is trained, in fp16 (21 MB): enough to go on from, or to export."""
        trained = {n: t.half().contiguous() for n, t in self.model.state_dict().items() if n != FROZEN}
        save_file(trained, path)
        print(f"saved {path}", flush=True)

    def save(self) -> None:
        self.save_weights(self.out / "weights.safetensors")
        folder = self.out / "model"
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (self.out / "recipe.json").write_text(json.dumps(asdict(self.recipe), indent=2) + "\n")
        print(f"saved {folder}", flush=True)


def _transform(layer: torch.nn.Module, x: Tensor, context: Tensor, keep: Tensor) -> Tensor:
    """A BERT layer for some tokens x that attend to all of the context's; `keep` is its mask."""
    attention = layer.attention.self
    parts = (attention.query(x), attention.key(context), attention.value(context))
    heads = [t.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2) for t in parts]
    # Written out, since at 24 tokens scaled_dot_product_attention takes longer, in bfloat16 by a third.
    weights = heads[0] @ heads[1].transpose(-1, -2) * heads[0].shape[-1] ** -0.5
    weights = weights.masked_fill(~keep, -1e4).softmax(-1).to(heads[2].dtype)
    x = layer.attention.output((weights @ heads[2]).transpose(1, 2).flatten(2), x)
    return layer.output(layer.intermediate(x), x)


def report_encoder(trainer: Trainer, queries: int = 400) -> None:
    """Accuracy of the bi-encoder on dev queries over the 10K subset (a look at progress, no bar)."""
    data = load_icd10cm_10k()
    dev = data.queries["dev"][:queries]
    texts = list(data.items.values())
    with torch.no_grad():
        top = _top(trainer.embed([q.text for q in dev]), trainer.embed(texts), 100)
    right = [[texts[j] == data.items[q.item_id] for j in row] for q, row in zip(dev, top, strict=True)]
    hits = np.array(right)
    print(
        f"bi-encoder on dev: @1 {hits[:, 0].mean():.3f}, @10 {hits[:, :10].any(1).mean():.3f}, "
        f"@100 {hits.any(1).mean():.3f}",
        flush=True,
    )


def _top(queries: Tensor, items: Tensor, k: int) -> np.ndarray:
    return torch.cat([(part @ items.T).topk(k, dim=1).indices for part in queries.split(256)]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's data.noun and so on")
    parser.add_argument("--out", type=Path, required=True, help="where checkpoints and the model go")
    parser.add_argument("--weights", type=Path, help="go on from these (weights.safetensors of an earlier run)")
    parser.add_argument("--from-pass", type=int, default=1, help="with --weights: the pass that comes next")
    parser.add_argument("--to-pass", type=int, help="the last pass; every pass unless given")
    parser.add_argument("--mined", type=Path, help="what mine.py found with the weights before a pass that needs it")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    passes = range(args.from_pass, (args.to_pass or len(Recipe().passes)) + 1)
    searched = [number for number in passes if Recipe().passes[number - 1].mined]
    if searched and (args.mined is None or len(searched) > 1):
        parser.error(
            f"passes {searched} train on what mine.py found just before each: run them one by one with --mined"
        )
    torch.set_num_threads(args.threads)
    trainer = Trainer(Recipe(), args.base, args.wordnet, args.out, args.mined)
    trainer.opinions()  # while the model is still the base model
    if args.weights:
        trainer.load_weights(args.weights)
    else:
        report_encoder(trainer)
        trainer.train_encoder()
        report_encoder(trainer)
    for number in passes:
        trainer.train_cross_encoder(number)
    trainer.save()


if __name__ == "__main__":
    main()
