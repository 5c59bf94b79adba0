"""The flag that writes down again what is public."""


def pytest_addoption(parser):
    parser.addoption("--update-surface", action="store_true", help="write public_surface.txt again, then check it")
