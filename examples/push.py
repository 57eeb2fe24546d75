"""Publish a trained adapter on the Hub in one commit: the adapter, its code, its processor and a model card.

    hf auth login
    python examples/push.py runs/mine you/my-adapter --private

Anybody can then load it with `AutoModel.from_pretrained("you/my-adapter", trust_remote_code=True)`.
"""

import argparse

from adem_vl_hf.hub.upload import push


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a folder that save_pretrained or a Trainer wrote")
    parser.add_argument("repo_id", help="owner/name")
    parser.add_argument("--private", action="store_true")
    args = parser.parse_args()

    commit = push(args.checkpoint, args.repo_id, private=args.private)
    print(commit.commit_url)


if __name__ == "__main__":
    main()
