"""`python -m camcli`"""

from camcli.cli.app import main

if __name__ == "__main__":
    main()
