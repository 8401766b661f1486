# vLLM with outpace's drafter (experimental). The image of vLLM has all that the drafter needs, so outpace is installed without the packages
# of its own targets. See compose.yaml for the command; docs/server/scaling.md says when this pays.
FROM vllm/vllm-openai:v0.32.0
COPY pyproject.toml README.md LICENSE /src/
COPY dev/hatch_build.py /src/dev/
COPY outpace /src/outpace
RUN python3 -m pip install --no-cache-dir rich && python3 -m pip install --no-cache-dir --no-deps /src && python3 -c "import outpace.vllm"
