# The public headers. tests/hygiene fails where one is missing here.
set(DAPT_HEADERS)
