# What is needed and missing is installed first, where that can be done: scripts/setup.sh.
.PHONY: demo test bench matrix truth lint setup deb deb-test quickstart compose-test

# The whole story, live, in about a minute; KEEP=1 leaves it running at the end.
demo:
	@exec scripts/demo.sh

# Everything: format, lints, unit tests, rules, the end-to-end tests in the lab.
test:
	@exec scripts/test.sh

# What the project promises about time, measured in one run; about fifteen minutes.
bench:
	@exec scripts/bench.sh

# Every fault times every kind of traffic; writes docs/leak-matrix.md.
matrix:
	@exec scripts/matrix.sh

# Every situation a tunnel can be in: what is seen, what fires, what is done; writes docs/truth-table.md.
truth:
	@exec scripts/truth.sh

lint:
	@exec scripts/lint.sh

setup:
	@exec scripts/setup.sh

# The Debian package, in target/deb.
deb:
	@exec packaging/deb.sh

# Installed, upgraded, removed and purged in a clean Debian; as root, some minutes.
deb-test:
	@exec packaging/test.sh

# The README's quick start, word for word, in a clean Debian; as root, some minutes.
quickstart:
	@exec packaging/quickstart.sh

# The compose file on a Docker engine of its own; as root, with the images there.
compose-test:
	@exec docker/test.sh
