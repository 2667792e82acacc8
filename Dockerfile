# The server, offline and without privileges: docker build -t gpa . && docker run --rm -p 127.0.0.1:8000:8000 gpa
# Its port is beyond loopback inside, so that voices ask for consent; give --api-key-file where others can reach it.
FROM python:3.12-slim

COPY . /src
RUN pip install --no-cache-dir '/src[server]' && rm -rf /src \
    && useradd --uid 10001 --create-home gpa && install -d -o gpa /voices
USER 10001
ENV GPA_OFFLINE=1 PYTHONUNBUFFERED=1
VOLUME /voices
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/ready')"]
ENTRYPOINT ["gpa", "serve", "--host", "0.0.0.0", "--voices", "/voices"]
