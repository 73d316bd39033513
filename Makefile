# What is needed and missing is installed first, where that can be done: scripts/setup.sh.
.PHONY: demo test lint setup

# The whole story, live, in about a minute; KEEP=1 leaves it running at the end.
demo:
	@exec scripts/demo.sh

# Everything: format, lints, unit tests, rules, the end-to-end tests in the lab.
test:
	@exec scripts/test.sh

lint:
	@exec scripts/lint.sh

setup:
	@exec scripts/setup.sh
