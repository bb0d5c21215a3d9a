"""The command, as `python -m loci`: for what starts modules, torchrun say."""

from loci.commands.main import main

if __name__ == "__main__":
    main()
